"""What ComfyUI is told: attach to a model, detach from it."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP

from ...motioncache_core import RunSettings, Trace, TraceHandle
from ...motioncache_core.common.reasons import because
from ...motioncache_core.report.node_text import expected, on_node
from . import answers, model_entry, sampling_run, tokens
from .conflicts import check_conflicts, check_recording
from .live_text import LiveText
from .passes import KEY, begin
from .sampling_run import PatchConfig
from .uncached import STOPWATCH, timed

# what calls go through, from the run to the network
WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, sampling_run.sample),
    (WrappersMP.PREDICT_NOISE, begin),
    (WrappersMP.APPLY_MODEL, answers.evaluate),
    (WrappersMP.APPLY_MODEL, model_entry.evaluate),
    (WrappersMP.DIFFUSION_MODEL, tokens.evaluate),
)


def attach(
    model: Any,
    chosen: RunSettings,
    handle: TraceHandle,
    node_id: str | None = None,
    measured: bool = False,
) -> Any:
    """A clone of the model that caches; the model itself is not changed.

    With the preset "off" its runs are only timed, and the trace has the reason.

    Args:
        chosen: settings, or a preset that becomes settings when a run's length is known.
        node_id: the node that shows how a run goes.
        measured: the workflow measures what is gained.

    Raises:
        ConflictError: another cache is on the model already.
    """
    live = LiveText(node_id)
    if chosen.preset == "off":
        handle.add(off(chosen))
        live.show(on_node(handle.runs[-1].reason))
        return timed(model, handle, off(chosen), live)
    already = KEY in model.model_options.get("transformer_options", {})
    check_conflicts(model.model_options, already, getattr(model, "wrappers", None))
    check_recording(model.model_options)
    clone = model.clone()
    live.show(expected(chosen.settings, chosen.preset))
    options = clone.model_options.setdefault("transformer_options", {})
    options[KEY] = PatchConfig(chosen, handle, node_id, measured)
    for kind, wrapper in WRAPPERS:
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def off(chosen: RunSettings) -> Trace:
    """What is told of runs of a model that was left as it is."""
    reason = because("off")
    return Trace(chosen.settings.as_dict(), preset="off", reason=reason, finished=True)


def detach(model: Any) -> Any:
    """A clone of the model as it was before `attach`."""
    clone = model.clone()
    for kind in dict(WRAPPERS):
        clone.remove_wrappers_with_key(kind, KEY)
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE):
        clone.remove_wrappers_with_key(kind, STOPWATCH)
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    return clone
