"""MotionCache: reuse the tokens of a video diffusion transformer that hardly move.

Needs torch, numpy, einops and safetensors; neither ComfyUI nor Triton.
"""

from .adapters import ADAPTERS, find_adapter, takes_frame_levels
from .calibration import Recorder
from .call import ForcingCall, ModelCall, RunFacts
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
    "ForcingCall",
    "ForcingOptions",
    "ModelCall",
    "ModelProfile",
    "MotionCacheError",
    "MotionCacheSettings",
    "NoMapError",
    "ProfileError",
    "Recorder",
    "RunFacts",
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
