"""The pack's own socket types and what its nodes share."""

from __future__ import annotations

from comfy_api.latest import io

from ..motioncache_core import MotionCacheError, Trace, TraceHandle
from ..motioncache_core.common.reasons import because

CATEGORY = "MotionCache"
TraceSocket = io.Custom("MOTIONCACHE_TRACE")
SettingsSocket = io.Custom("MOTIONCACHE_SETTINGS")

SAMPLES_TOOLTIP = (
    "The sampler's output. It is only looked at to make this node wait for the sampler."
)
TRACE_TOOLTIP = (
    "The trace output of the MotionCache node. Without it, as when that node is bypassed, this "
    "node says so."
)


def latest(handle: TraceHandle | None) -> Trace:
    """The newest finished run behind a trace socket; an empty one that says so where nothing is
    connected, as the host leaves it of a MotionCache node that is bypassed."""
    if handle is None:
        return Trace({}, reason=because("no_trace"), finished=True)
    trace = handle.latest
    if trace is None:
        raise MotionCacheError(
            "there is no finished sampling run yet. Connect `samples` to the LATENT output of the "
            "sampler that uses the patched model, so that this node runs after it."
        )
    return trace
