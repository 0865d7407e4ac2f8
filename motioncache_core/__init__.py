"""MotionCache: reuse the tokens of a video diffusion transformer that hardly move.

Needs torch, numpy, einops and safetensors; neither ComfyUI nor Triton.
"""

from .adapters import ADAPTERS, find_adapter, takes_frame_levels
from .call import ContextWindow, ForcingCall, ModelCall, RunFacts, SchedulePart
from .devices import DeviceSessions
from .distance import CalibratedProfile
from .errors import (
    CacheShapeError,
    ConflictError,
    MotionCacheError,
    NoMapError,
    SettingsError,
    UnsupportedModelError,
)
from .exchange import MapExchange
from .sampling import ForcingOptions, forcing_schedule, sample_forcing
from .session import Session
from .settings import PRESETS, MotionCacheSettings
from .trace import Trace, TraceHandle

__all__ = [
    "ADAPTERS",
    "PRESETS",
    "CacheShapeError",
    "CalibratedProfile",
    "ConflictError",
    "ContextWindow",
    "DeviceSessions",
    "ForcingCall",
    "ForcingOptions",
    "MapExchange",
    "ModelCall",
    "MotionCacheError",
    "MotionCacheSettings",
    "NoMapError",
    "RunFacts",
    "SchedulePart",
    "Session",
    "SettingsError",
    "Trace",
    "TraceHandle",
    "UnsupportedModelError",
    "find_adapter",
    "forcing_schedule",
    "sample_forcing",
    "takes_frame_levels",
]
