"""Recorded MAGI-1 runs through the pack's nodes, on the stand-in and on the real ComfyUI."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.magi1.options import MagiOptions
from motioncache_pack.tests.support.magi import Recorded

# of the host's latents to the published code's
SCALE = 0.18215


def build(case: Recorded, **changes: Any) -> Any:
    """A patcher of the recorded network."""
    module = importlib.import_module("motioncache_pack.nodes.host.magi_model")
    return module.build_magi(dict(case.weights), case.distilled, published=True, **changes)


def prompt(case: Recorded) -> list[Any]:
    rows = torch.cat((case.text["hq"], case.text["caption"]))[None]
    return [[rows, {"magi_durations": case.text["duration"]}]]


def node(model: Any, case: Recorded, text: Any = None, **changes: Any) -> Any:
    """GUIDER, SAMPLER and SIGMAS of the node."""
    module = importlib.import_module("motioncache_pack.nodes.magi_sampling")
    values = {k: getattr(case.options(**changes), k) for k in MagiOptions.__slots__}
    positive = prompt(case) if text is None else text
    return module.MotionCacheMagiSampling.execute(model, positive, **values).result


def sampled(
    model: Any, case: Recorded, callback: Any = None, text: Any = None, **changes: Any
) -> torch.Tensor:
    """The final latents in the published code's own units."""
    guider, sampler, sigmas = node(model, case, text, **changes)
    latent, mask = torch.zeros_like(case.noise), None
    if case.prefix is not None:
        latent[:, :, : case.given] = case.prefix / SCALE
        mask = torch.ones(1, 1, *case.noise.shape[2:])
        mask[:, :, : case.given] = 0
    out = guider.sample(
        case.noise, latent, sampler, sigmas, denoise_mask=mask, callback=callback,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    return out * SCALE
