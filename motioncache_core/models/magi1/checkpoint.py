"""The files of a MAGI-1 checkpoint: shards, 8-bit weights, and what the name tells.

Published as one `model.safetensors` or as shards `model-00001-of-00002.safetensors`; an 8-bit
file has float8 weights with scales for them and for their inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...common.errors import SettingsError, UnsupportedModelError
from .config import MARKER, MagiConfig
from .network import MagiNetwork

KINDS = ("auto", "base", "distill")
# where savers put a model's tensors
_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.")
_SHARD = re.compile(r"^(?P<stem>.*-)(?P<number>\d+)-of-(?P<count>\d+)(?P<ending>\.safetensors)$")
_PACKED = ".zst"
_SCALE, _INPUT, _SMOOTH = "weight_scale", "input_scale", "smooth_scale"


def shard_names(name: str) -> list[str]:
    """The names of all shards of a file, itself among them; only itself where there is one."""
    match = _SHARD.match(name)
    if match is None:
        return [name]
    digits, count = len(match["number"]), int(match["count"])
    return [
        f"{match['stem']}{number:0{digits}}-of-{match['count']}{match['ending']}"
        for number in range(1, count + 1)
    ]


def check_shards(wanted: Iterable[str], present: Iterable[str]) -> None:
    """Whether all files of a checkpoint are there.

    Args:
        wanted: of `shard_names`.
        present: names of the files in the folder.

    Raises:
        UnsupportedModelError: some are missing, or packed.
    """
    there = set(present)
    missing = [name for name in wanted if name not in there]
    packed = [name + _PACKED for name in missing if name + _PACKED in there]
    if packed:
        raise UnsupportedModelError(
            f"{', '.join(packed)} is packed. Unpack it where it lies (zstd -d), and load the "
            "first shard again"
        )
    if missing:
        raise UnsupportedModelError(
            f"a shard of this model is missing: {', '.join(missing)}. Put it into the folder of "
            "the others, under this name"
        )


def is_distilled(name: str, kind: str) -> bool:
    """Whether a checkpoint is the distilled model; its tensors do not tell.

    Args:
        name: of the file, with its folders.
        kind: of `KINDS`; auto goes by the name.

    Raises:
        SettingsError: the kind is unknown, or auto where the name does not tell.
    """
    if kind not in KINDS:
        raise SettingsError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}")
    if kind != "auto":
        return kind == "distill"
    said = [word for word in ("distill", "base") if word in name.lower()]
    if len(said) != 1:
        raise SettingsError(
            f"nothing in the file or in the name {name} tells the base model from the distilled "
            "one. Set kind to base or distill, or keep the published folder (as 4.5B_distill) in "
            "the name"
        )
    return said[0] == "distill"


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under MAGI-1's own names, without what a saver put before them."""
    for prefix in _PREFIXES:
        if prefix + MARKER in tensors:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return dict(tensors)


def check_complete(config: MagiConfig, tensors: Mapping[str, Tensor]) -> None:
    """Whether a network of these sizes finds all its tensors, in its shapes.

    Args:
        tensors: of `own_names` and `dequantise`.

    Raises:
        UnsupportedModelError: some are missing or of another shape.
    """
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in MagiNetwork(config).state_dict().items()}
    given = {name: tuple(tensors[name].shape) for name in wanted if name in tensors}
    wrong = [name for name, shape in wanted.items() if given.get(name) != shape]
    if wrong:
        name = wrong[0]
        raise UnsupportedModelError(
            f"{len(wrong)} tensors of this MAGI-1 model are missing or of another shape, the "
            f"first is {name}: {given.get(name, 'missing')}, expected {wanted[name]}. Put all "
            "shards of the model into one folder, or download the file again"
        )


def is_quantised(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights have scales of their own."""
    return any(name.endswith(f".{_SCALE}") for name in tensors)


def dequantise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that 8-bit ones stand for, in bf16; all others as they are.

    The published layers divide their input by `input_scale` and multiply the product by
    `weight_scale`, so one number has to do for all inputs: `w8 * weight_scale`. With a
    `smooth_scale` for each input it is `w8 * weight_scale * input_scale / smooth_scale`.

    Raises:
        UnsupportedModelError: `input_scale` is not the same for all inputs, or a scale is missing.
    """
    made = {}
    for name, value in tensors.items():
        layer, _, what = name.rpartition(".")
        if what in (_SCALE, _INPUT, _SMOOTH):
            continue
        quantised = what == "weight" and f"{layer}.{_SCALE}" in tensors
        if value.dtype.itemsize == 1 and value.is_floating_point() and not quantised:
            raise UnsupportedModelError(
                f"{name} is in 8 bits and has no {_SCALE} beside it. Take the published file "
                "again, or one in bf16"
            )
        made[name] = _weight(tensors, layer, value) if quantised else value
    return made


def _weight(tensors: Mapping[str, Tensor], layer: str, stored: Tensor) -> Tensor:
    # a leading 1 in the published files
    values = stored.reshape(stored.shape[-2:]).float()
    scale = tensors[f"{layer}.{_SCALE}"].float().reshape(-1)
    given = tensors.get(f"{layer}.{_INPUT}")
    smooth = tensors.get(f"{layer}.{_SMOOTH}")
    if scale.numel() != 1 or (smooth is not None and given is None):
        raise UnsupportedModelError(
            f"{layer} has {scale.numel()} numbers in {_SCALE}"
            f"{'' if given is not None else f' and no {_INPUT}'}; MAGI-1's 8-bit layers have one, "
            f"and {_INPUT} with {_SMOOTH}. Take the published file, or one in bf16"
        )
    if given is not None and not bool((given == given.reshape(-1)[0]).all()):
        raise UnsupportedModelError(
            f"{_INPUT} of {layer} differs from input to input, from {float(given.min()):.4g} to "
            f"{float(given.max()):.4g}; the weights cannot be told from this file. Take a model "
            "in bf16"
        )
    values = values * scale
    if smooth is not None and given is not None:
        values = values * given.float().reshape(-1)[0] / smooth.float().reshape(1, -1)
    return values.to(torch.bfloat16)


def describe(config: MagiConfig, distilled: bool, quantised: bool) -> str:
    """What was loaded and how it is sampled, in plain words for the user."""
    size = f"{config.blocks} blocks, width {config.width}"
    kind = "distilled" if distilled else "base"
    words = [f"MAGI-1, {kind} model, {size}{', 8-bit weights unpacked' if quantised else ''}."]
    steps = (
        "64, 32, 16, 12 or 8 steps; 24B: 16"
        if distilled
        else "64 steps, 24B: 32; three evaluations a step, for text and chunks before"
    )
    words.append(
        f"Recommended: {steps}; chunks of 24 frames at 24 fps, "
        f"{'1280 x 720' if config.doubled else '720 x 720'} pixels."
    )
    return " ".join(words)
