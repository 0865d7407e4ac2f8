"""What a SkyReels-V2 checkpoint is, and its frame-rate embedding folded into a bias.

SkyReels-V2 (arXiv 2504.13074) is Wan 2.1's network. Its 1.3B diffusion-forcing checkpoint adds a
learned vector per frame rate to the modulation of every block; a network without that branch
computes the same once the vector is part of the time projection's bias (ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.errors import SettingsError, UnsupportedModelError

_REQUIRED = (
    "patch_embedding.weight",
    "text_embedding.0.weight",
    "time_embedding.0.weight",
    "time_projection.1.weight",
    "time_projection.1.bias",
    "blocks.0.self_attn.q.weight",
    "head.head.weight",
    "head.modulation",
)
# where ComfyUI looks for a diffusion model's tensors
_PREFIXES = ("", "model.diffusion_model.", "model.model.", "net.", "model.")
_FPS_LAYERS = ("fps_embedding", "fps_projection.0", "fps_projection.2")
_FPS_KEYS = (
    "fps_embedding.weight",
    *(f"fps_projection.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")),
)
_BIAS = "time_projection.1.bias"
_MARKER = "model_type."
_SCALES = ("scale_weight", "weight_scale")
_OWN_MODULES = {"patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks",
                "head", "img_emb", "fps_embedding", "fps_projection", "model_type",
                "scaled_fp8"}  # fmt: skip
_WHERE = (
    "Take model.safetensors of Skywork/SkyReels-V2-DF-1.3B-540P, or a single file from the "
    "Skyreels folder of Kijai/WanVideo_comfy"
)

Kind = Literal["text_to_video", "image_to_video", "other"]


@dataclass(frozen=True)
class SkyReelsFacts:
    """What the tensors of a Wan-shaped checkpoint say.

    Attributes:
        prefix: what stands before every name, as "model.diffusion_model.".
        kind: "other" has modules that SkyReels-V2 has not.
        width: channels C of a token.
        blocks: transformer blocks.
        in_channels: latent channels of the input, with those of an image condition.
        has_fps: whether there is a frame-rate embedding.
        marker: what a `model_type.*` tensor of a repack names, as "SkyReels-V2-DF-14B-540P".
        modules: top-level modules that SkyReels-V2 has not, as "vace_blocks".
    """

    prefix: str
    kind: Kind
    width: int
    blocks: int
    in_channels: int
    has_fps: bool
    marker: str | None
    modules: tuple[str, ...]


def fps_index(fps: int) -> int:
    """Row of the frame-rate embedding: 0 for 16 frames per second, 1 for any other.

    Raises:
        SettingsError: fps is no whole number above 0.
    """
    if not isinstance(fps, int) or fps < 1:
        raise SettingsError(
            f"fps is {fps!r}; allowed are whole numbers from 1. SkyReels-V2 knows 16 and 24"
        )
    return 0 if fps == 16 else 1


def inspect(sd: Mapping[str, Tensor]) -> SkyReelsFacts:
    """Recognise a state dict with Wan's names, with or without ComfyUI's prefix.

    Raises:
        UnsupportedModelError: no Wan transformer, or not all of it.
    """
    # the prefix under which most is found; "" where nothing is
    prefix = max(_PREFIXES, key=lambda p: sum(p + name in sd for name in _REQUIRED))
    names = {key[len(prefix) :] for key in sd if key.startswith(prefix)}
    _check_complete(sd, names)
    found = {int(name.split(".")[1]) for name in names if re.match(r"blocks\.\d+\.", name)}
    absent = sorted(set(range(max(found) + 1)) - found)
    if absent:
        raise _incomplete(f"blocks {absent}")
    has_fps = any(name.split(".")[0] in ("fps_embedding", "fps_projection") for name in names)
    missing = [name for name in _FPS_KEYS if name not in names]
    if has_fps and missing:
        raise _incomplete(", ".join(missing))
    modules = tuple(sorted({name.split(".")[0] for name in names} - _OWN_MODULES))
    channels = sd[prefix + "patch_embedding.weight"].shape[1]
    image = "img_emb.proj.0.weight" in names or channels == 36
    markers = [k.removeprefix(prefix) for k in sd if k.removeprefix(prefix).startswith(_MARKER)]
    return SkyReelsFacts(
        prefix=prefix,
        kind=_kind(channels, image, modules),
        width=sd[prefix + "head.modulation"].shape[-1],
        blocks=len(found),
        in_channels=channels,
        has_fps=has_fps,
        marker=markers[0][len(_MARKER) :] if markers else None,
        modules=modules,
    )


def _kind(channels: int, image: bool, modules: tuple[str, ...]) -> Kind:
    if modules or channels not in (16, 36):
        return "other"
    return "image_to_video" if image else "text_to_video"


def _check_complete(sd: Mapping[str, Tensor], names: set[str]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if not missing:
        return
    if any(".attn1.to_q." in key or "condition_embedder." in key for key in sd):
        raise UnsupportedModelError(
            "this file has diffusers' names (as blocks.0.attn1.to_q.weight), which ComfyUI does "
            f"not read for Wan and SkyReels; expected {missing[0]}. {_WHERE}, not a repository "
            "whose name ends in -Diffusers"
        )
    if any(".lora_" in key or ".lora." in key for key in sd):
        raise UnsupportedModelError(
            "this file is a LoRA, not a model. Load the model here, and the LoRA with ComfyUI's "
            "'Load LoRA' behind it"
        )
    if any(re.search(r"blocks\.\d+\.(self_attn\.q|ffn\.0)\.", key) for key in sd):
        raise _incomplete(", ".join(missing))
    shown = ", ".join(sorted(sd)[:3]) or "no tensors"
    raise UnsupportedModelError(
        f"this file is no Wan or SkyReels-V2 transformer: expected {', '.join(missing[:3])}, "
        f"found {shown}. For another video model use 'Load Diffusion Model', for a whole "
        "checkpoint 'Load Checkpoint'"
    )


def _incomplete(missing: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"this file holds a part of a Wan or SkyReels-V2 transformer only: {missing} missing. If "
        "it is one of several shards (as model-00001-of-00003.safetensors), use a repack in one "
        f"file; else download it again. {_WHERE}"
    )


def fold_fps(sd: Mapping[str, Tensor], fps: int) -> dict[str, Tensor]:
    """The checkpoint as Wan's network takes it, with the frame rate in the time projection's bias.

    The frame rate adds `projection(embedding[fps_index(fps)])`, `(6 * C,)`, to the modulation of
    all blocks, frames and tokens, but not to the head's, which is taken before the projection.
    So does a bias: `time_projection.1.bias + projection(...)` is exact. Computed in float64; kept
    in the bias' own dtype, or in float32 where that is an 8-bit float.

    Args:
        sd: neither the dict nor its tensors are changed; all other tensors are shared.
        fps: frames per second of the video.

    Returns:
        `sd` without frame-rate and `model_type` tensors, names and prefix as they were.

    Raises:
        UnsupportedModelError: no whole Wan transformer, or frame-rate weights in a quantised
            format other than 8-bit floats with one scale, or one per row.
        SettingsError: fps is no whole number above 0.
    """
    index = fps_index(fps)
    facts = inspect(sd)
    drop = (_MARKER, *(f"{layer}." for layer in _FPS_LAYERS))
    kept = {k: v for k, v in sd.items() if not k.removeprefix(facts.prefix).startswith(drop)}
    if not facts.has_fps:
        return kept
    embedding, first, second = (_weight(sd, facts.prefix + layer) for layer in _FPS_LAYERS)
    first_bias, second_bias = (
        sd[f"{facts.prefix}{layer}.bias"].double() for layer in _FPS_LAYERS[1:]
    )
    bias = sd[facts.prefix + _BIAS]
    shapes = [tuple(t.shape) for t in (embedding, first, first_bias, second, second_bias, bias)]
    c = facts.width
    expected = [(2, c), (c, c), (c,), (6 * c, c), (6 * c,), (6 * c,)]
    if shapes != expected:
        raise UnsupportedModelError(
            f"the frame-rate weights and {_BIAS} have shapes {shapes}; a network of width {c} "
            f"has {expected}. {_WHERE}"
        )
    added = F.linear(F.silu(F.linear(embedding[index], first, first_bias)), second, second_bias)
    dtype = torch.float32 if bias.dtype.itemsize == 1 else bias.dtype
    kept[facts.prefix + _BIAS] = (bias.double() + added).to(dtype)
    return kept


def _weight(sd: Mapping[str, Tensor], layer: str) -> Tensor:
    """A layer's weight in float64, its scale applied where it is a scaled 8-bit float."""
    weight = sd[f"{layer}.weight"]
    scale = next((sd[k] for k in (f"{layer}.{s}" for s in _SCALES) if k in sd), None)
    per_row = scale is not None and scale.numel() == weight.shape[0]
    if not weight.is_floating_point() or not (scale is None or scale.numel() == 1 or per_row):
        raise UnsupportedModelError(
            f"{layer}.weight is quantised ({weight.dtype}, scale of shape "
            f"{None if scale is None else tuple(scale.shape)}); frame-rate weights may be floats, "
            f"or 8-bit floats with one scale or one per row. Use an fp16 or bf16 file. {_WHERE}"
        )
    return weight.double() if scale is None else weight.double() * scale.double().reshape(-1, 1)


_FORCED = (
    "Recommended: shift 8 (ComfyUI's own for this model), CFG 6, 30 to 50 steps, 24 fps, 97 frames "
    "at 544x960 or 121 at 720x1280; asynchronous: chunks of 5 latent frames, 5 steps of delay."
)
_NOT_FORCED = "This is not a diffusion-forcing model: ComfyUI's ordinary samplers serve it."


def describe(facts: SkyReelsFacts, fps: int, file_name: str = "") -> str:
    """What was found, and how it is sampled, in plain words for the user.

    The 14B diffusion-forcing and text-to-video checkpoints have the same tensors; the marker, else
    the file's name, tells them apart, else the text says that nothing does.
    """
    fps_index(fps)
    size = f"{facts.blocks} blocks, width {facts.width}"
    if facts.kind == "other":
        extra = ", ".join(facts.modules) or f"{facts.in_channels} input channels"
        return f"A model of the Wan family, {size}, with {extra}. {_NOT_FORCED}"
    if facts.kind == "image_to_video":
        return (
            f"Image-to-video (Wan 2.1 or SkyReels-V2), {size}. {_NOT_FORCED} Recommended for "
            "SkyReels-V2: shift 3 to 5, CFG 5."
        )
    if facts.has_fps:
        return f"SkyReels-V2, {size}, fps embedding folded for {fps} fps. {_FORCED}"
    source = facts.marker or file_name.replace("\\", "/").rpartition("/")[2]
    told = f"{'marker' if facts.marker else 'file name'} {source}"
    words = re.split(r"[^a-z0-9]+", source.lower())
    if "df" in words:
        # only the 1.3B model was trained with one
        lost = (
            " SkyReels-V2-DF-1.3B has one, which this file lost: it comes out slightly different."
            if facts.width == 1536
            else ""
        )
        return (
            f"SkyReels-V2 (by {told}), {size}, no fps embedding: fps does nothing.{lost} {_FORCED}"
        )
    if "t2v" in words:
        return (
            f"Text-to-video (by {told}), {size}. {_NOT_FORCED} Recommended for SkyReels-V2: "
            "shift 8, CFG 6."
        )
    unknown = (
        "SkyReels-V2-DF-1.3B has an fps embedding, so this is another Wan model of that size, or "
        "a file that lost it"
        if facts.width == 1536
        else "nothing in the file tells a diffusion-forcing model from an ordinary one"
    )
    return (
        f"Text-to-video of the Wan family, {size}, no fps embedding: {unknown}. For a "
        f"diffusion-forcing model: {_FORCED}"
    )
