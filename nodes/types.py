"""The pack's own socket types and what its nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..motioncache_core import MotionCacheError, Trace, TraceHandle

CATEGORY = "MotionCache"
TraceSocket = io.Custom("MOTIONCACHE_TRACE")
SettingsSocket = io.Custom("MOTIONCACHE_SETTINGS")

SAMPLES_TOOLTIP = (
    "The sampler's output. It is only looked at to make this node wait for the sampler."
)


def latest(handle: TraceHandle) -> Trace:
    """The newest finished run behind a trace socket."""
    trace = handle.latest
    if trace is None:
        raise MotionCacheError(
            "there is no finished sampling run yet. Connect `samples` to the LATENT output of the "
            "sampler that uses the patched model, so that this node runs after it."
        )
    return trace
