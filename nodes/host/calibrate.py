"""Recording a run without a cache, and keeping what it says of the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...motioncache_core import ConflictError, ModelProfile, Recorder, UnsupportedModelError
from ...motioncache_core.policy.model_profile import MIN_LEVELS
from . import model_entry
from .compiled import compiled_reason
from .conflicts import CALIBRATE, other_cache
from .engine_choice import adapter_of
from .live_text import LiveText
from .passes import KEY, SESSION
from .profiles import describe, identify, place_of
from .tokens import evaluate

log = logging.getLogger(__name__)

_TOO_LITTLE = (
    f"no profile was written: the run has fewer than {MIN_LEVELS} falling noise levels. Sample "
    "with more steps"
)


def attach_recorder(model: Any, node_id: str | None = None) -> Any:
    """A clone of the model whose runs are recorded; the model itself is not changed.

    Raises:
        ConflictError: a cache is on the model, or it is recorded already.
    """
    _check(model.model_options, getattr(model, "wrappers", None))
    if CALIBRATE in model.model_options.get("transformer_options", {}):
        raise ConflictError("this model already has MotionCache Calibrate. One node is enough.")
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[CALIBRATE] = LiveText(node_id)
    wrappers = comfy.patcher_extension.WrappersMP
    clone.add_wrapper_with_key(wrappers.OUTER_SAMPLE, CALIBRATE, _record)
    clone.add_wrapper_with_key(wrappers.APPLY_MODEL, CALIBRATE, model_entry.evaluate)
    clone.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, CALIBRATE, evaluate)
    return clone


def _check(model_options: dict[str, Any], wrappers: dict[str, Any] | None = None) -> None:
    """Refuse a cache beside the recording."""
    name = other_cache(model_options, wrappers)
    if KEY in model_options.get("transformer_options", {}):
        name = "MotionCache"
    if name is not None:
        raise ConflictError(
            f"{name} is on this model, which has to run without a cache while it is measured. "
            f"Bypass {name} for that run, and MotionCache Calibrate afterwards."
        )


def _record(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any,
            **kwargs: Any) -> Tensor:  # fmt: skip
    """OUTER_SAMPLE: one recording from the first to the last step of a sampling run."""
    guider = executor.class_obj
    outer, patcher = guider.model_options, guider.model_patcher
    options = outer["transformer_options"]
    live: LiveText = options[CALIBRATE]
    # a cache that was added behind this node shows only now
    _check(outer)
    _, declined = adapter_of(patcher)
    if declined:
        raise UnsupportedModelError(
            f"there is nothing to calibrate: {declined}. Remove MotionCache Calibrate."
        )
    reason = compiled_reason(patcher, outer)
    if reason:
        raise UnsupportedModelError(f"MotionCache Calibrate cannot measure this run: {reason}.")
    mark = identify(patcher)
    # raises where there are several, and a finished run must not be lost to that
    path = place_of(patcher, mark)
    live.show("recording this run, without a cache")
    recorder = Recorder()
    guider.model_options = {**outer, "transformer_options": {**options, SESSION: recorder}}
    try:
        result: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        changes = recorder.changes()
    finally:
        guider.model_options = outer
        recorder.close()
    if changes is None:
        words = _TOO_LITTLE
    else:
        words = _keep(ModelProfile(describe(patcher), mark, changes, float(sigmas[-1])), path)
    live.show(words)
    log.info("MotionCache Calibrate - %s.", words)
    return result


def _keep(profile: ModelProfile, path: Path) -> str:
    """Write the file; says where it is, or why there is none. The run is not lost for that."""
    try:
        profile.dump(path)
    except OSError as error:
        log.error("MotionCache Calibrate - %s", error)
        return f"no profile was written: {path} cannot be written ({error})"
    return (
        f"{len(profile.changes.sigmas)} evaluations recorded, profile written to {path}. Bypass "
        "this node; MotionCache uses the profile from now on"
    )
