"""Networks of Wan's family at a tiny size, through ComfyUI's own loader and sampler, and the calls
that its sampler makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.tests.support.family import Call, Family
from torch import Tensor

SIZES = {"dim": 256, "ffn_dim": 384, "num_heads": 2, "num_layers": 4, "text_dim": 4096,
         "freq_dim": 256}  # fmt: skip
STEPS = 8
TAMED = ("time_embedding.2.weight",)


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_weights(
    network: Any,
    tamed: Sequence[str] = TAMED,
    added: str = "modulation",
    small: tuple[float, float] = (0.05, 0.2),
) -> dict[str, Tensor]:
    """Random weights of about unit gain; those with such words in their name a tenth of it.

    Args:
        added: how names of tables end that are added to something, and have no gain.
        small: size of biases, and of what else has no gain.
    """
    rng, found = torch.Generator().manual_seed(0), {}
    for name, value in network.state_dict().items():
        if name.endswith("inv_freq"):
            found[name] = 10000.0 ** (-torch.arange(value.numel()) / value.numel())
            continue
        if not value.is_floating_point():
            found[name] = value.clone()
            continue
        weight = torch.randn(value.shape, generator=rng)
        if value.ndim > 1 and not name.endswith(added):
            weight /= value[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            weight = 1 + 0.1 * weight
        else:
            weight *= small[not name.endswith("bias")]
        found[name] = weight * 0.1 if any(word in name for word in tamed) else weight
    return found


class Picture:
    """What ComfyUI's CLIP vision nodes give."""

    def __init__(self, seed: int = 4) -> None:
        self.penultimate_hidden_states = drawn(1, 257, 1280, seed=seed)


@dataclass(frozen=True, eq=False)
class Variant:
    """One network in one kind of use.

    Attributes:
        kind: module and class of the network in `comfy.ldm.wan`.
        sizes: its arguments.
        given: what the nodes of its workflow leave in the conditioning, from latent frames, rows
            and columns.
        before, behind: rows around the video's, from tokens of the grid.
        size, other: latent frames, rows and columns; another choice of them.
        metadata: the checkpoint's.
        side_calls: see `Family`.
        loaded: the class that ComfyUI makes of it, where that is another one.
    """

    kind: str
    sizes: dict[str, Any]
    given: Callable[[int, int, int], dict[str, Any]] = lambda f, h, w: {}
    before: Callable[[int, int, int], int] = lambda f, h, w: 0
    behind: Callable[[int, int, int], int] = lambda f, h, w: 0
    size: tuple[int, int, int] = (3, 8, 8)
    other: tuple[int, int, int] = (4, 12, 10)
    metadata: dict[str, str] = field(default_factory=dict)
    loaded: str = ""
    side_calls: int = 0

    @property
    def grid(self) -> tuple[int, int, int]:
        f, h, w = self.size
        return f, -(-h // 2), -(-w // 2)

    @property
    def latent(self) -> Tensor:
        return torch.zeros(1, 16, *self.size)


@functools.cache
def weights_of(kind: str, sizes: tuple[tuple[str, Any], ...]) -> dict[str, Tensor]:
    import importlib

    import comfy.ops

    module, _, name = kind.rpartition(".")
    made = getattr(importlib.import_module(f"comfy.ldm.wan.{module}"), name)(
        device="cpu", dtype=torch.float32, operations=comfy.ops.manual_cast,
        **{**SIZES, **dict(sizes)},
    )  # fmt: skip
    return random_weights(made)


def load(host: Any, variant: Variant) -> Any:
    """A patcher of the variant's network, as the loader node makes it."""
    weights = weights_of(variant.kind, tuple(variant.sizes.items()))
    model = host.sd.load_diffusion_model_state_dict(
        {name: value.clone() for name, value in weights.items()}, metadata=variant.metadata or None
    )
    network = model.model.diffusion_model
    assert type(network).__name__ == (variant.loaded or variant.kind.rpartition(".")[2])
    if hasattr(network, "motion_encoder"):
        # it wants faces of 512 x 512
        faces = drawn(16, 512)
        network.motion_encoder.get_motion = lambda pictures: faces[: len(pictures)].to(
            pictures.dtype
        )
    return model


def prompt(host: Any, variant: Variant, seed: int, tokens: int = 16) -> list[Any]:
    """A conditioning, with what the variant's nodes leave in it."""
    (text, _), *_ = host.text(seed, tokens=tokens)
    return [[text, variant.given(*variant.size)]]


def family(host: Any, variant: Variant) -> Family:
    """The variant's network with the calls of two prompts, for the contract test."""
    model = load(host, variant)
    calls: list[list[Call]] = [[], []]
    adapter, declined = find_adapter(model.model.diffusion_model)
    assert declined is None

    def watch(found: list[Call], executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any):
        named = {**dict(zip(adapter.positional, args, strict=False)), **kwargs}
        del named["transformer_options"]
        found.append(Call(x.clone(), t.clone(), named.pop("context").clone(), named))
        return executor(x, t, *args, **kwargs)

    for i, found in enumerate(calls):
        watched = model.clone()
        watched.add_wrapper_with_key("diffusion_model", "test", functools.partial(watch, found))
        text = prompt(host, variant, i + 1)
        host.run(watched, text, text, latent=variant.latent, steps=STEPS, cfg=1.0)
    f, h, w = variant.grid
    before, tokens = variant.before(f, h, w), f * h * w
    video = slice(before, before + tokens)
    network = model.model.diffusion_model
    return Family(
        adapter, network, tokens, lambda step, which: calls[which][step],
        tuple(("double_block", i) for i in range(len(network.blocks))),
        lambda _, x, __: x[:, video], lambda keys, _: keys[:, video],
        reads_input=hasattr(network, "vace_blocks"), side_calls=variant.side_calls,
    )  # fmt: skip


def _fun(f: int, h: int, w: int) -> dict[str, Any]:
    return {"concat_latent_image": drawn(1, 32, f, h, w), "clip_vision_output": Picture()}


def _scail(f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "reference_latents": [drawn(1, 16, 1, h, w)], "clip_vision_output": Picture(),
        "pose_video_latent": drawn(1, 16, f, h // 2, w // 2),
    }  # fmt: skip


def _scail2(f: int, h: int, w: int) -> dict[str, Any]:
    # two references, of which the mask stream knows one each
    return {
        **_scail(f, h, w), "reference_latents": [drawn(1, 16, 1, h, w, seed=i) for i in (3, 6)],
        "driving_mask_28ch": drawn(1, f, 28, h // 2, w // 2).sign(),
        "ref_mask_28ch": drawn(1, f + 2, 28, h, w).sign(), "ref_mask_flag": False,
    }  # fmt: skip


def _vace(f: int, h: int, w: int, contexts: int = 1) -> dict[str, Any]:
    return {
        "vace_frames": [drawn(1, 32, f, h, w, seed=i) for i in range(contexts)],
        "vace_mask": [drawn(1, 64, f, h, w).abs()] * contexts,
        "vace_strength": [0.8, 0.5][:contexts],
    }


def _speech(f: int, h: int, w: int, motion: bool = False) -> dict[str, Any]:
    moving = {"reference_motion": drawn(1, 16, 19, h, w)} if motion else {}
    return {
        "audio_embed": drawn(1, 25, 1024, 4 * f), "reference_latents": [drawn(1, 16, 1, h, w)],
        "control_video": drawn(1, 16, f, h, w), **moving,
    }  # fmt: skip


def _heard(f: int, h: int, w: int) -> dict[str, Any]:
    return {"audio_embed": drawn(1, f, 8, 5, 1280)}


def _sung(f: int, h: int, w: int) -> dict[str, Any]:
    return {**_heard(f, h, w), "reference_latents": [drawn(1, 16, 1, h, w)]}


def _animate(f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "face_video_pixels": torch.zeros(1, 3, 8, 16, 16), "clip_vision_output": Picture(),
        "pose_video_latent": drawn(1, 16, f - 1, h, w),
        "concat_latent_image": drawn(1, 16, f, h, w),
    }  # fmt: skip


def _dance(f: int, h: int, w: int, fps: float = 30) -> dict[str, Any]:
    return {
        "audio_embed": drawn(1, 20, 35), "clip_vision_output": Picture(), "fps": fps,
        "clip_vision_output_ref": Picture(5), "concat_latent_image": drawn(1, 16, f, h, w),
    }  # fmt: skip


def _pose_rows(f: int, h: int, w: int) -> int:
    # half as large, rounded up to whole patches
    return f * -(-h // 2) * -(-w // 2)


def _motion_rows(f: int, h: int, w: int) -> int:
    # one frame of whole patches, one of double ones, four of fourfold ones
    return h * w + (h // 2) * (w // 2) + 4 * (h // 4) * (w // 4)


def frame(f: int, h: int, w: int) -> int:
    return h * w


T2V, VACE = {"model_type": "t2v", "in_dim": 16}, {"vace_layers": 2, "vace_in_dim": 96}
VARIANTS: dict[str, Variant] = {
    "fun control": Variant("model.WanModel", {"model_type": "i2v", "in_dim": 48}, _fun),
    "fun control, reference": Variant(
        "model.WanModel", {"model_type": "i2v", "in_dim": 48, "in_dim_ref_conv": 16},
        lambda *s: {**_fun(*s), "reference_latents": [drawn(1, 16, 1, *s[1:])]}, before=frame,
    ),
    "fun camera": Variant(
        "model.CameraWanModel", {"model_type": "camera", "in_dim": 32},
        lambda f, h, w: {
            "concat_latent_image": drawn(1, 16, f, h, w), "clip_vision_output": Picture(),
            "camera_conditions": drawn(1, 24, f, 8 * h, 8 * w),
        },
    ),
    "fun camera 2.2": Variant(
        "model.CameraWanModel", {"model_type": "camera_2.2", "in_dim": 36},
        lambda f, h, w: {
            "concat_latent_image": drawn(1, 16, f, h, w),
            "camera_conditions": drawn(1, 24, f, 8 * h, 8 * w),
        },
    ),
    "phantom": Variant(
        "model.WanModel", T2V, lambda f, h, w: {"time_dim_concat": drawn(1, 16, 2, h, w)},
        behind=lambda f, h, w: 2 * h * w,
    ),
    "context latents": Variant(
        "model.WanModel", T2V, lambda f, h, w: {"context_latents": [drawn(1, 16, 2, 6, 6)]},
        behind=lambda f, h, w: 2 * 9,
    ),
    "scail": Variant(
        "model.SCAILWanModel", {"in_dim": 20}, _scail, frame,
        _pose_rows,
    ),
    "scail 2": Variant(
        "model.SCAIL2WanModel", {"in_dim": 20}, _scail2, lambda f, h, w: 2 * h * w,
        _pose_rows,
    ),
    "vace": Variant("model.VaceWanModel", {"in_dim": 16, **VACE}, _vace, side_calls=2),
    "vace, two contexts": Variant(
        "model.VaceWanModel", {"in_dim": 16, **VACE}, functools.partial(_vace, contexts=2)
    ),
    "vace, last block hinted": Variant(
        "model.VaceWanModel", {"in_dim": 16, **VACE, "vace_layers": 4}, _vace
    ),
    "s2v": Variant("model.WanModel_S2V", {"in_dim": 16}, _speech, behind=frame),
    "s2v, motion": Variant(
        "model.WanModel_S2V", {"in_dim": 16}, functools.partial(_speech, motion=True),
        behind=lambda *s: frame(*s) + _motion_rows(*s),
    ),
    "animate": Variant(
        "model_animate.AnimateWanModel", {"in_dim": 36, "num_layers": 5}, _animate
    ),
    "humo": Variant("model.HumoWanModel", {"in_dim": 16}, _sung, behind=frame),
    "humo, no reference": Variant("model.HumoWanModel", {"in_dim": 16}, _heard),
    # eight words a frame share its tokens evenly
    "dancer": Variant(
        "model_wandancer.WanDancerModel", {"in_dim": 36}, _dance, other=(4, 8, 16)
    ),
    "dancer, 15 frames a second": Variant(
        "model_wandancer.WanDancerModel", {"in_dim": 36}, functools.partial(_dance, fps=15.0),
        other=(4, 8, 16),
    ),
}  # fmt: skip
