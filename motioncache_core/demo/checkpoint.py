"""The demo model's shipped files."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..policy.distance import CalibratedProfile
from ..settings import MotionCacheSettings
from . import scenes
from .wan import DemoWan

_HERE = Path(__file__).parent
WEIGHTS = _HERE / "demo_wan.safetensors"
PROFILE = _HERE / "demo_wan.profile.json"
# the noise schedule the model was trained around
SHIFT = 5.0
# frames of the longest clips it was trained on
FRAMES = 12
# what a user has to know of the model: notes, help, demo and README all take this sentence
LIMITS = (
    "The shipped model is tiny: it is shown the first frame, and in the later frames flat shapes "
    "on grey, a control video, tell it where they go. It draws the whole from pure noise."
)
SETTINGS = MotionCacheSettings.preset("balanced")


def state_dict(path: Path = WEIGHTS) -> dict[str, Tensor]:
    """The trained weights, fp16, with Wan 2.1's names and text width.

    The file holds the text axes that are used. ComfyUI takes the text width to be Wan's 4096
    whatever the weights say.
    """
    weights = load_file(path)
    name = "text_embedding.0.weight"
    weights[name] = F.pad(weights[name], (0, scenes.TEXT_DIM - weights[name].shape[1]))
    return weights


def load(path: Path = WEIGHTS) -> DemoWan:
    """The trained model, or another one of its kind, fp32, on the CPU."""
    return DemoWan.from_state_dict({k: v.float() for k, v in state_dict(path).items()}).eval()


def profile(path: Path = PROFILE) -> CalibratedProfile:
    """How fast its residual changes along the noise schedule (made by `calibrate.py`)."""
    return CalibratedProfile.load(path)
