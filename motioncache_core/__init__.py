"""MotionCache: reuse the tokens of a video diffusion transformer that hardly move.

Needs torch, numpy, einops and safetensors; neither ComfyUI nor Triton.
"""

from .common.errors import (
    CacheShapeError,
    ConflictError,
    MotionCacheError,
    NoMapError,
    ProfileError,
    SettingsError,
    UnsupportedModelError,
)
from .engine.answers.answer_session import AnswerSession
from .engine.answers.start import answer_session
from .engine.calibration import Recorder
from .engine.devices import DeviceSessions
from .engine.session import Session
from .models.registry import ADAPTERS, find_adapter, takes_frame_levels
from .models.weight_fingerprint import fingerprint
from .policy.distance import CalibratedProfile
from .policy.map_exchange import MapExchange
from .policy.model_profile import ModelProfile
from .report.trace import Trace, TraceHandle
from .sampling.answer_call import AnswerCall
from .sampling.forcing import sample_forcing
from .sampling.forcing_call import ForcingCall
from .sampling.model_call import ModelCall
from .sampling.options import ForcingOptions
from .sampling.run_facts import ContextWindow, RunFacts, SchedulePart
from .sampling.run_settings import RunSettings, settings_for_run
from .sampling.sampler_response import RehearsalError, SamplerResponse, rehearse
from .sampling.schedule import forcing_schedule
from .settings import PRESETS, MotionCacheSettings

__all__ = [
    "ADAPTERS",
    "PRESETS",
    "AnswerCall",
    "AnswerSession",
    "CacheShapeError",
    "CalibratedProfile",
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
    "RehearsalError",
    "RunFacts",
    "RunSettings",
    "SamplerResponse",
    "SchedulePart",
    "Session",
    "SettingsError",
    "Trace",
    "TraceHandle",
    "UnsupportedModelError",
    "answer_session",
    "find_adapter",
    "fingerprint",
    "forcing_schedule",
    "rehearse",
    "sample_forcing",
    "settings_for_run",
    "takes_frame_levels",
]
