"""Small networks of Wan's family in the contract test, one for each way of handling rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.tests.core.small_wan import TEXT_DIM
from motioncache_pack.tests.support.family import Call, Family
from motioncache_pack.tests.support.toy_wan import (
    Faces,
    Hints,
    RowsAround,
    Singing,
    Speech,
    network,
)


def _variant(
    network: RowsAround,
    before: int = 0,
    batch: int = 1,
    framewise: bool = False,
    side_calls: int = 0,
    **given: tuple[int, ...] | int,
) -> Family:
    """A network with rows around the video's, or with something between the blocks.

    Args:
        given: its further arguments, as shapes behind the batch.
    """
    size = (4, 6, 8)
    tokens = size[0] * 12

    def call(step: int, prompt: int) -> Call:
        rng, fixed = (torch.Generator().manual_seed(seed) for seed in (step, 40 + prompt))
        x = torch.randn(batch, 16, *size, generator=rng)
        t = torch.full((batch,), 1000.0 - 75 * step)
        if framewise:
            t = t[:, None] - 90 * torch.arange(size[0])
        context = torch.randn(batch, 6, TEXT_DIM, generator=fixed)
        more: dict[str, Any] = {
            name: shape if isinstance(shape, int) else torch.randn(batch, *shape, generator=fixed)
            for name, shape in given.items()
        }
        if "context_latents" in more:
            more["context_latents"] = [more["context_latents"]]
        return Call(x, t, context, more)

    video = slice(before, before + tokens)
    return Family(
        find_adapter(network)[0], network, tokens, call,
        tuple(("double_block", i) for i in range(len(network.blocks))),
        lambda _, x, __: x[:, video], lambda keys, _: keys[:, video],
        reads_input=isinstance(network, Hints), side_calls=side_calls,
    )  # fmt: skip


WAN_VARIANTS: dict[str, Callable[[], Family]] = {
    "reference and context rows": lambda: _variant(
        network(RowsAround, "model", "WanModel"), 12, batch=2,
        reference_latent=(16, 6, 8), context_latents=(16, 2, 4, 6),
    ),
    "context rows, a timestep per frame": lambda: _variant(
        network(RowsAround, "model", "WanModel"), framewise=True, context_latents=(16, 2, 4, 6),
    ),
    "camera": lambda: _variant(
        network(RowsAround, "model", "CameraWanModel", flat_modulation=True), batch=2
    ),
    # by a sampler that is not its own
    "causal": lambda: _variant(network(RowsAround, "ar_model", "CausalWanModel")),
    "scail": lambda: _variant(
        network(RowsAround, "model", "SCAILWanModel"), 24,
        reference_latent=(16, 2, 6, 8), pose_latents=(16, 4, 2, 4),
    ),
    "vace": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), side_calls=2, vace_context=(1, 16, 4, 6, 8)
    ),
    "vace, two samples": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), side_calls=2, batch=2,
        vace_context=(1, 16, 4, 6, 8),
    ),
    "vace, two contexts": lambda: _variant(
        network(Hints, "model", "VaceWanModel"), vace_context=(2, 16, 4, 6, 8)
    ),
    "vace, last block hinted": lambda: _variant(
        network(Hints, "model", "VaceWanModel", hinted=(0, 2)), vace_context=(1, 16, 4, 6, 8)
    ),
    "s2v": lambda: _variant(
        network(Speech, "model", "WanModel_S2V", timed=True, behind=True), frames=4,
        reference_latent=(16, 1, 6, 8), words=(4, 5, 256),
    ),
    "animate": lambda: _variant(
        network(Faces, "model_animate", "AnimateWanModel"), words=(4, 5, 256)
    ),
    "humo": lambda: _variant(
        network(Singing, "model", "HumoWanModel", behind=True), batch=2,
        reference_latent=(16, 1, 6, 8), words=(5, 3, 256),
    ),
    "dancer": lambda: _variant(
        network(Speech, "model_wandancer", "WanDancerModel"), batch=2, words=(4, 1, 256)
    ),
}  # fmt: skip
