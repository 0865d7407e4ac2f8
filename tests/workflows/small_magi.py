"""The MAGI-1 workflows with the model that the pack makes itself in the place of their files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

Prompt = dict[str, dict[str, Any]]
TINY = "MotionCacheMagiTiny"
# what it stands for, and which of its outputs does
_OUTPUTS = {"MotionCacheLoadMagi": 0, "MotionCacheMagiText": 1, "MotionCacheLoadMagiVAE": 2}
_LEFT_OUT = (
    *_OUTPUTS, "CLIPLoader", "CreateVideo", "GetVideoComponents", "ImageFromBatch", "ImageScale",
    "LoadImage", "LoadVideo", "PreviewAny", "SaveVideo",
)  # fmt: skip
# frames of the encoded picture, and of the encoded end of a video as the empty latent counts them
_PICTURE, _VIDEO = 1, 29


def is_magi(prompt: Prompt) -> bool:
    return any(node["class_type"] in (TINY, *_OUTPUTS) for node in prompt.values())


def with_a_tiny_magi(prompt: Prompt) -> Prompt:
    """The prompt without its files, on a small picture."""
    kinds = {number: node["class_type"] for number, node in prompt.items()}
    length = _VIDEO if "LoadVideo" in kinds.values() else _PICTURE
    out = {"magi": {"class_type": TINY, "inputs": {"kind": "distill", "take": 0}}}
    for number, node in prompt.items():
        kind, inputs = node["class_type"], dict(node["inputs"])
        if kind in _LEFT_OUT:
            continue
        for name, value in inputs.items():
            if isinstance(value, list) and kinds[value[0]] in _OUTPUTS:
                inputs[name] = ["magi", _OUTPUTS[kinds[value[0]]]]
        if kind == "VAEEncode":
            kind = "EmptyHunyuanLatentVideo"
            inputs = {"width": 64, "height": 64, "length": length, "batch_size": 1}
        elif kind == "MotionCacheMagiLatent":
            inputs |= {"width": 64, "height": 64}
        out[number] = {"class_type": kind, "inputs": inputs}
    return out


def noise(it: Any) -> Any:
    """What the host's RandomNoise gives."""

    def generate(latent: dict[str, torch.Tensor]) -> torch.Tensor:
        random = torch.Generator().manual_seed(it.noise_seed)
        return torch.randn(latent["samples"].shape, generator=random)

    return SimpleNamespace(seed=it.noise_seed, generate_noise=generate)


def sample(it: Any) -> dict[str, torch.Tensor]:
    """What the host's SamplerCustomAdvanced comes down to."""
    latent = it.latent_image
    samples = it.guider.sample(
        it.noise.generate_noise(latent), latent["samples"], it.sampler, it.sigmas,
        denoise_mask=latent.get("noise_mask"), disable_pbar=True, seed=it.noise.seed,
    )  # fmt: skip
    return {**latent, "samples": samples}


def decode(it: Any) -> torch.Tensor:
    """What the host's VAEDecode comes down to."""
    frames: torch.Tensor = it.vae.decode(it.samples["samples"])
    return frames.flatten(0, 1)
