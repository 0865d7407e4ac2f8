"""Diffusion forcing: chunks of latent frames that denoise together, each behind the one before."""

from .forcing import Evaluate, Progress, WindowCall, sample_forcing
from .options import FORCING_CHOICES, FORCING_RANGES, ForcingOptions
from .schedule import ACTIVE, CLEAN, DONE, UNSTARTED, ChunkStep, Iteration, forcing_schedule
from .solver import make_solver

__all__ = [
    "ACTIVE",
    "CLEAN",
    "DONE",
    "FORCING_CHOICES",
    "FORCING_RANGES",
    "UNSTARTED",
    "ChunkStep",
    "Evaluate",
    "ForcingOptions",
    "Iteration",
    "Progress",
    "WindowCall",
    "forcing_schedule",
    "make_solver",
    "sample_forcing",
]
