"""The demo model's shipped files."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from ..distance import CalibratedProfile
from ..settings import MotionCacheSettings
from .wan import DemoWan

_HERE = Path(__file__).parent
WEIGHTS = _HERE / "demo_wan.safetensors"
PROFILE = _HERE / "demo_wan.profile.json"
# the noise schedule the model was trained around
SHIFT = 5.0
# where sampling starts, see LIMITS
DENOISE = 0.55
# what a user has to know of the model: notes, help, demo and README all take this sentence
LIMITS = (
    "The shipped model is tiny and cannot place shapes in pure noise: it starts from a flat sketch "
    "of the scene under 86% noise and draws shapes and texture from there."
)
# the motion phase starts early enough for the demo's 24 steps to show it; the presets wait longer,
# which keeps more quality on this model
SETTINGS = MotionCacheSettings.preset(
    "balanced",
    warmup_steps=4,
    uniform_updates=1,
    min_update_ratio=0.2,
    motion_sensitivity=0.5,
)


def load() -> DemoWan:
    """The trained model, fp32, on the CPU."""
    return DemoWan.from_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()}).eval()


def profile() -> CalibratedProfile:
    """How fast its residual changes along the noise schedule (made by `calibrate.py`)."""
    return CalibratedProfile.load(PROFILE)
