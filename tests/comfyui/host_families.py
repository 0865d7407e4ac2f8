"""Small networks of the host's own classes, loaded by its loader and sampled by its samplers: every
family that is known block by block, in the kinds of call that it has.

To be imported by tests that have a host; nothing here imports it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.tests.support.families import Family, Oracle
from torch import Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(network: Any, tame: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Random weights of about unit gain for a network that was built empty; those with such words
    in their name a tenth of it."""
    rng, found = torch.Generator().manual_seed(0), {}
    for name, value in network.state_dict().items():
        if name.endswith("inv_freq"):
            found[name] = 10000.0 ** (-torch.arange(value.numel()) / value.numel())
            continue
        made = torch.randn(value.shape, generator=rng)
        if value.ndim > 1 and not name.endswith("scale_shift_table"):
            made /= value[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            made = 1 + 0.1 * made
        else:
            made *= 0.1
        found[name] = made * 0.1 if any(word in name for word in tame) else made
    return found


@dataclass(frozen=True)
class HostFamily:
    """One kind of call of a family.

    Attributes:
        model: makes the network on a host and has it loaded.
        positive, negative: conditioning.
        latent: what is sampled.
        hooks: keys of all blocks, from the network.
        before: condition rows between text and video that the network's head reads.
        frames: latent frames of the token grid.
        mask: of the sampler, which parts are denoised.
        cfg: of the guider.
    """

    model: Callable[[Any], Any]
    positive: list[Any]
    negative: list[Any]
    latent: Callable[[], Any]
    hooks: Callable[[Any], list[tuple[str, int]]]
    tokens: str = "img"
    before: int = 0
    frames: int = 3
    mask: Callable[[], Any] | None = None
    cfg: float = 3.0
    sites: tuple[int, ...] = (1,)

    def sample(self, host: Any, model: Any, steps: int = 6, **how: Any) -> Any:
        """What a KSampler makes of it."""
        how = {"cfg": self.cfg, "latent": self.latent(), "positive": self.positive,
               "negative": self.negative, "seed": 3, **how}  # fmt: skip
        if self.mask is not None:
            how["noise_mask"] = self.mask()
        return host.run(model, steps=steps, **how)


@dataclass
class WithOracle:
    """A clone of a model whose every call is the oracle's, with rows that a test dictates.

    Attributes:
        rows: of each evaluation, its active video rows.
        changed: how far the answers are from those of all rows, at most.
    """

    case: HostFamily
    rows: list[Any]
    oracles: dict[Any, Oracle] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)
    changed: float = 0.0

    def put(self, model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "oracle", self._call)
        return model

    def _call(self, executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "uuids" in o)
        network = executor.class_obj
        key = tuple(options["cond_or_uncond"])
        index = self.counts.get(key, 0)
        self.counts[key] = index + 1
        if key not in self.oracles:
            self.oracles[key] = Oracle(host_family(self.case, network, x))

        def run(_: Any, ours: dict[str, Any]) -> Any:
            merged = {**options, **ours}
            given = [copied(x), *(merged if a is options else a for a in args)]
            return executor(*given, **{k: merged if a is options else a for k, a in kwargs.items()})

        call = SimpleNamespace(run=run)
        self.oracles[key].family = host_family(self.case, network, x)
        out = self.oracles[key].call(call, self.rows[index])
        bare = run(None, {})
        pairs = zip(parts(out), parts(bare), strict=True)
        self.changed = max(self.changed, *(float((a - b).abs().max()) for a, b in pairs))
        return out


def parts(out: Any) -> list[Tensor]:
    """The tensors of a latent or an answer."""
    nested = getattr(out, "tensors", out)
    return list(nested) if isinstance(nested, (list, tuple)) else [nested]


def copied(x: Any) -> Any:
    return [t.clone() for t in x] if isinstance(x, list) else x.clone()


def host_family(case: HostFamily, network: Any, x: Any) -> Family:
    """For the oracle: the video's rows are the last ones in every tensor."""
    adapter, declined = find_adapter(network)
    assert declined is None
    facts = adapter.facts(network)
    whole = adapter.layout(facts, adapter.video(x))
    tokens = case.frames * whole.spatial

    def last(_: str, stream: Tensor, __: Any) -> Tensor:
        return stream[..., -tokens:, :]

    def held(_: str, stream: Tensor, __: Any) -> Tensor:
        return stream[..., -tokens - case.before : stream.shape[-2] - tokens, :]

    return Family(
        adapter, network, tokens, lambda *_: None, tuple(case.hooks(network)), last,
        lambda keys, _: keys.transpose(1, 2)[:, -tokens:], sites=case.sites,
        held=held if case.before else None, name=case.tokens,
    )  # fmt: skip


def hunyuan_hooks(network: Any) -> list[tuple[str, int]]:
    double, single = len(network.double_blocks), len(network.single_blocks)
    return [("double_block", i) for i in range(double)] + [
        ("single_block", i) for i in range(single)
    ]


def hunyuan_model(version: str = "1.0", double: int = 2, single: int = 2, channels: int = 16,
                  **more: Any) -> Callable[[Any], Any]:  # fmt: skip
    newer = version == "1.5"

    def make(host: Any) -> Any:
        from comfy.ldm.hunyuan_video.model import HunyuanVideo

        sizes = {
            "in_channels": channels, "out_channels": 32 if newer else 16,
            "vec_in_dim": None if newer else 768, "context_in_dim": 64, "hidden_size": 256,
            "mlp_ratio": 4.0, "num_heads": 2, "depth": double, "depth_single_blocks": single,
            "axes_dim": [16, 56, 56], "theta": 256, "patch_size": [1, 1, 1] if newer else [1, 2, 2],
            "qkv_bias": True, "guidance_embed": not newer, "byt5": False, "meanflow": False,
            "use_cond_type_embedding": newer, "vision_in_dim": 1152 if newer else None,
            "meanflow_sum": newer, **more,
        }  # fmt: skip
        empty = HunyuanVideo(
            dtype=torch.float32, device="cpu", operations=host.ops.manual_cast, **sizes
        )
        weights = filled(empty, ("time_in.out_layer.weight",))
        return host.sd.load_diffusion_model_state_dict(weights)

    return make


def texts(tokens: int, seed: int, **more: Any) -> list[Any]:
    given = {"pooled_output": drawn(1, 768, seed=seed + 50), **more}
    return [[drawn(1, tokens, 64, seed=seed), given]]


def hunyuan(positive: Any = None, negative: Any = None, **how: Any) -> HostFamily:
    model = how.pop("model", hunyuan_model())
    how = {"latent": lambda: torch.zeros(1, 16, 3, 8, 12), **how}
    return HostFamily(
        model, positive or texts(5, 1), negative or texts(5, 2), hooks=hunyuan_hooks, **how
    )  # fmt: skip


def padded(tokens: int, kept: int) -> Tensor:
    return (torch.arange(tokens)[None] < kept).long()


FRAME = 4 * 6
GIVEN = {"guiding_frame_index": 0}
IMAGE = {
    "concat_latent_image": drawn(1, 16, 1, 8, 12, seed=5),
    "concat_mask": torch.cat((torch.zeros(1, 1, 1, 8, 12), torch.ones(1, 1, 2, 8, 12)), 2),
}
VISION = {"clip_vision_output": SimpleNamespace(last_hidden_state=drawn(1, 6, 1152, seed=9))}
GLYPHS = {"conditioning_byt5small": drawn(1, 4, 1472, seed=3)}


def newer(positive: Any = None, negative: Any = None, size: tuple[int, ...] = (3, 4, 6),
          **model: Any) -> HostFamily:  # fmt: skip
    model = {"single": 0, "channels": 65, **model}
    return hunyuan(
        positive, negative, latent=lambda: torch.zeros(1, 32, *size), frames=size[0],
        model=hunyuan_model("1.5", **model),
    )  # fmt: skip


HOST_FAMILIES: dict[str, HostFamily] = {
    "hunyuan video": hunyuan(),
    "hunyuan video, texts apart": hunyuan(negative=texts(7, 2)),
    "hunyuan video, masked text": hunyuan(
        texts(9, 1, attention_mask=padded(9, 5)), texts(7, 2, attention_mask=padded(7, 4))
    ),
    "hunyuan video, first frame given": hunyuan(
        texts(5, 1, **GIVEN), texts(5, 2, **GIVEN), before=FRAME, frames=2
    ),
    "hunyuan video, more text than a frame": hunyuan(
        texts(30, 1, **GIVEN), texts(30, 2, **GIVEN), before=FRAME, frames=2
    ),
    "hunyuan video, reference": hunyuan(
        # the host takes one of these in a call
        *(texts(n, i, ref_latent=drawn(1, 16, 1, 8, 12, seed=8)) for i, n in ((1, 5), (2, 7))),
        before=FRAME,
    ),
    "hunyuan video, image to video": hunyuan(
        texts(5, 1, **IMAGE), texts(5, 2, **IMAGE), model=hunyuan_model(channels=33)
    ),
    "skyreels v1, image to video": hunyuan(
        *(texts(5, i, concat_latent_image=IMAGE["concat_latent_image"]) for i in (1, 2)),
        model=hunyuan_model(channels=32),
    ),
    "hunyuan video, two clips": hunyuan(latent=lambda: torch.zeros(2, 16, 3, 8, 12)),
    "hunyuan video, other size": hunyuan(latent=lambda: torch.zeros(1, 16, 5, 6, 4), frames=5),
    "hunyuan video 1.5": newer(double=3),
    "hunyuan video 1.5, odd sides": newer(size=(2, 5, 7), single=1),
    "hunyuan video 1.5, glyphs": newer(texts(5, 1, **GLYPHS), byt5=True),
    "hunyuan video 1.5, image": newer(
        texts(5, 1, **VISION, **GLYPHS), texts(5, 2, **VISION), byt5=True
    ),
    "hunyuan video 1.5, mean flow": newer(meanflow=True),
}  # fmt: skip
