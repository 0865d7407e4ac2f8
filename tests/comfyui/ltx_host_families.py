"""The families of LTX, for `host_families.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from motioncache_pack.tests.comfyui.host_weights import HostFamily, drawn, filled, nested

SIZES = {
    "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64,
    "caption_channels": 64,
}  # fmt: skip
SOUND = {
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32, "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32, "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 32, "connector_num_layers": 1,
}  # fmt: skip
# 2.3
NEWER = {"cross_attention_adaln": True, "apply_gated_attention": True}


def ltx_model(sound: bool, **more: Any) -> Callable[[Any], Any]:
    def make(host: Any) -> Any:
        from comfy.ldm.lightricks.av_model import LTXAVModel
        from comfy.ldm.lightricks.model import LTXVModel

        given = {**SIZES, **(SOUND if sound else {}), **more}
        empty = (LTXAVModel if sound else LTXVModel)(
            dtype=torch.float32, device="cpu", operations=host.ops.manual_cast, **given
        )
        metadata = {"config": json.dumps({"transformer": given})}
        weights = filled(empty, ("adaln_single.emb",))
        return host.sd.load_diffusion_model_state_dict(weights, metadata=metadata)

    return make


def ltx(sound: bool = False, model: Any = None, words: tuple[int, int] = (5, 5),
        frames: int = 3, guides: int = 0, strength: float | None = None,
        **how: Any) -> HostFamily:  # fmt: skip
    """`guides`: latent frames behind the video; `strength`: of the attention to them."""
    more: dict[str, Any] = {}
    if guides:
        rows = guides * 16
        places = torch.arange(3 * rows * 2).float().reshape(1, 3, rows, 2) % 9
        more["keyframe_idxs"] = places
        mask = torch.ones(1, 1, frames + guides, 4, 4)
        mask[:, :, frames:] = 0
        how["mask"] = lambda: mask
        if strength is not None:
            more["guide_attention_entries"] = [
                {"pre_filter_count": rows, "strength": strength, "pixel_mask": None,
                 "latent_shape": [guides, 4, 4]}
            ]  # fmt: skip
    texts = []
    for seed, n in enumerate(words, 1):
        given = {"attention_mask": torch.ones(1, n, dtype=torch.long), **more}
        texts.append([[drawn(1, n, 128 if sound else 64, seed=seed), given]])

    def latent() -> Any:
        video = drawn(1, 128, frames + guides, 4, 4, seed=7) * 0.5
        return nested(video, torch.zeros(1, 8, 7, 16)) if sound else video

    how = {"latent": latent, **how}
    return HostFamily(
        model or ltx_model(sound), *texts, frames=frames,
        hooks=lambda _: [("double_block", i) for i in range(3)],
        sites=(1, 6) if sound else (1,), behind=bool(guides),
        before=0 if sound else guides * 16, **how,
    )  # fmt: skip


def first_frame_stays() -> Any:
    mask = torch.ones(1, 1, 3, 4, 4)
    mask[:, :, 0], mask[:, :, 1, :2] = 0, 0.5
    return mask


LTX_HOST_FAMILIES = {
    "ltx video": ltx(),
    "ltx video, texts apart": ltx(words=(5, 8)),
    "ltx video, other size": ltx(frames=5),
    "ltx video, mask": ltx(mask=first_frame_stays),
    "ltx video, guides": ltx(guides=2),
    "ltx video, weak guides": ltx(guides=2, strength=0.5),
    "ltx 2": ltx(True),
    "ltx 2, texts apart": ltx(True, words=(5, 8)),
    "ltx 2.3": ltx(True, model=ltx_model(True, **NEWER)),
}
