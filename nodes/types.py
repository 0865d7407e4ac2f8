"""The pack's own socket types and what its nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..motioncache_core import (
    MotionCacheError,
    MotionCacheSettings,
    RunSettings,
    SettingsError,
    Trace,
)
from ..motioncache_core.common.phrases import as_data, together
from ..motioncache_core.common.reasons import because
from ..motioncache_core.report.shown_run import ShownRun, shown_run

CATEGORY = "MotionCache"
# the entry of a node's ui output: what its text was made of
SAID = "motioncache_said"
TraceSocket = io.Custom("MOTIONCACHE_TRACE")
SettingsSocket = io.Custom("MOTIONCACHE_SETTINGS")

SAMPLES_TOOLTIP = (
    "The sampler's output: this node waits for it, and where the model was sampled more than once "
    "it says which run to show."
)
TRACE_TOOLTIP = (
    "The trace output of the MotionCache node. Without it, as when that node is bypassed, this "
    "node says so."
)


def said_by(words: str, *captions: str) -> dict[str, Any]:
    """A node's text for the page, which says it in its own language.

    Args:
        captions: of the node's pictures, for pages in another one than theirs.
    """
    return {
        **ui.PreviewText(words).as_dict(),
        SAID: [as_data(together("\n", [words, *captions]))],
    }


def run_of(handle: Any, samples: Any) -> ShownRun:
    """The finished run behind a trace socket that made these samples; an empty one that says so
    where nothing is connected, as the host leaves it of a MotionCache node that is bypassed.

    Raises:
        MotionCacheError: it is no trace, or no run has finished.
    """
    if handle is None:
        return ShownRun(Trace({}, reason=because("no_trace"), finished=True), 1, 1, True)
    runs = getattr(handle, "runs", None)
    if runs is None:
        raise MotionCacheError(
            f"trace is {handle!r}, which is no trace. Connect the trace output of a MotionCache "
            "node."
        )
    latents = samples.get("samples") if isinstance(samples, dict) else samples
    found = shown_run(list(runs), latents)
    if found is None:
        raise MotionCacheError(
            "there is no finished sampling run yet. Connect `samples` to the LATENT output of the "
            "sampler that uses the patched model, so that this node runs after it."
        )
    return found


def chosen_settings(preset: str, settings: Any) -> RunSettings:
    """What a node's preset and its settings, where some are connected, choose.

    Raises:
        SettingsError: there is no such preset, or what is connected are no settings.
    """
    if settings is None:
        # as it is written: what it becomes depends on the run's length
        return RunSettings(MotionCacheSettings.preset(preset), preset)
    if not isinstance(settings, MotionCacheSettings):
        raise SettingsError(
            f"settings is {settings!r}, which are no settings. Connect a MotionCache Settings "
            "node, or nothing to use the preset."
        )
    return RunSettings(settings)
