"""Networks of ComfyUI's own classes for the engine bench, with random weights: a stream of text and
video together, and blocks that run on all tokens, or are handed all tokens, between those of the
stack. They are there where `COMFYUI_PATH` names a ComfyUI."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from engine_model import Geometry, Inputs
from families_checks import module
from motioncache_pack.motioncache_core.models.registry import find_adapter
from torch import Tensor

WIDTH, LAYERS, WORDS, SIZE = 512, 4, 32, (12, 16, 16)
PATH = "COMFYUI_PATH"


@dataclass(frozen=True)
class HostGeometry(Geometry):
    """One of the tests' networks in a larger size. Its calls are those of the host's sampler.

    Attributes:
        name: which one.
    """

    name: str = ""

    @property
    def beside(self) -> bool:
        return True

    @property
    def joint(self) -> bool:
        """Whether text and video are one stream."""
        return self.name == "hunyuan video"

    @property
    def attention_share(self) -> float:
        length = self.tokens + self.text * self.joint
        attention = 2 * length * self.dim
        linear = 12 * self.dim**2
        if not self.joint:
            linear = 6 * self.dim**2 + 2 * self.dim * self.ffn_dim + 2 * self.text * self.dim
        return attention / (attention + linear)

    def for_gate(self) -> HostGeometry:
        # what is between the blocks comes with the fifth one
        return self

    def make(self, device: str) -> tuple[Any, Inputs]:
        model, sample = _hunyuan(self) if self.joint else _wan(self)
        return model.model.diffusion_model, _call(model, sample)


HOST = {
    f"{name}, width {WIDTH}": HostGeometry(
        WIDTH, 4 * WIDTH, layers, SIZE, torch.float32, batch=2, text=WORDS, name=name
    )
    for name, layers in (("hunyuan video", LAYERS), ("vace", LAYERS), ("animate", LAYERS + 1))
}


def known() -> Mapping[str, Geometry]:
    """Those that can be made here."""
    return HOST if os.environ.get(PATH) else {}


@cache
def _host() -> Any:
    harness = module("support.fake_comfy").harness
    harness.use_real_comfy(os.environ[PATH])
    return harness.Host()


def _hunyuan(geometry: HostGeometry) -> tuple[Any, Any]:
    host, families = _host(), module("comfyui.host_families")
    blocks = geometry.layers // 2
    made = families.hunyuan_model(
        double=blocks, single=blocks, hidden_size=geometry.dim, num_heads=geometry.dim // 128
    )
    case = families.hunyuan(
        *(families.texts(geometry.text, seed) for seed in (1, 2)), model=made,
        latent=lambda: torch.zeros(1, 16, *geometry.size),
    )  # fmt: skip
    return made(host), lambda model: case.sample(host, model, 1)


def _wan(geometry: HostGeometry) -> tuple[Any, Any]:
    host, support = _host(), module("support.host_wan")
    made = support.VARIANTS[geometry.name]
    sizes = {
        **made.sizes, "dim": geometry.dim, "ffn_dim": geometry.ffn_dim,
        "num_heads": geometry.dim // 128, "num_layers": geometry.layers,
    }  # fmt: skip
    variant = support.Variant(made.kind, sizes, made.given, size=geometry.size)
    texts = [support.prompt(host, variant, seed, geometry.text) for seed in (1, 2)]
    return support.load(host, variant), lambda model: host.run(
        model, *texts, variant.latent, 1, cfg=3.0
    )


def _call(model: Any, sample: Any) -> Inputs:
    """Latents and arguments of the sampler's only call, for both prompts."""
    found: list[Inputs] = []
    adapter, _ = find_adapter(model.model.diffusion_model)

    def watch(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip(adapter.positional, args, strict=False)), **kwargs}
        del named["transformer_options"]
        found.append((x.clone(), named))
        return executor(x, timestep, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key("diffusion_model", "bench", watch)
    sample(watched)
    if len(found) != 1:
        sys.exit(f"the sampler called the network {len(found)} times in one step, not once")
    return found[0]
