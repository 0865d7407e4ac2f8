"""MotionCache: reuse the tokens of a video diffusion transformer that hardly move.

Needs torch, numpy, einops and safetensors; neither ComfyUI nor Triton.
"""

from .adapters import ADAPTERS, find_adapter, takes_frame_levels
from .calibration import Recorder
from .call import ContextWindow, ForcingCall, ModelCall, RunFacts, SchedulePart
from .devices import DeviceSessions
from .distance import CalibratedProfile
from .errors import (
    CacheShapeError,
    ConflictError,
    MotionCacheError,
    NoMapError,
    ProfileError,
    SettingsError,
    UnsupportedModelError,
)
from .exchange import MapExchange
from .identity import fingerprint
from .preset import Chosen, resolve
from .profile import ModelProfile
from .sampling import ForcingOptions, forcing_schedule, sample_forcing
from .session import Session
from .settings import PRESETS, MotionCacheSettings
from .trace import Trace, TraceHandle

__all__ = [
    "ADAPTERS",
    "PRESETS",
    "CacheShapeError",
    "CalibratedProfile",
    "Chosen",
    "ConflictError",
    "ContextWindow",
    "DeviceSessions",
    "ForcingCall",
    "ForcingOptions",
    "MapExchange",
    "ModelCall",
    "ModelProfile",
    "MotionCacheError",
    "MotionCacheSettings",
    "NoMapError",
    "ProfileError",
    "Recorder",
    "RunFacts",
    "SchedulePart",
    "Session",
    "SettingsError",
    "Trace",
    "TraceHandle",
    "UnsupportedModelError",
    "find_adapter",
    "fingerprint",
    "forcing_schedule",
    "resolve",
    "sample_forcing",
    "takes_frame_levels",
]
