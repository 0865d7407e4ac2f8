"""Small networks of the host's own classes, loaded by its loader and sampled by its samplers: every
family that is known block by block, in the kinds of call that it has."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.tests.comfyui.host_weights import HostFamily, drawn, filled, nested
from motioncache_pack.tests.comfyui.ltx_host_families import LTX_HOST_FAMILIES
from motioncache_pack.tests.support.families import kandinsky_block
from torch import Tensor


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


def kandinsky_model(width: int = 128) -> Callable[[Any], Any]:
    def make(host: Any) -> Any:
        from comfy.ldm.kandinsky5.model import Kandinsky5

        empty = Kandinsky5(
            dtype=torch.float32, device="cpu", operations=host.ops.manual_cast, model_dim=width,
            ff_dim=256, time_dim=64, num_text_blocks=2, num_visual_blocks=3,
        )  # fmt: skip
        weights = filled(empty, ("time_embeddings.out_layer.weight",))
        return host.sd.load_diffusion_model_state_dict(weights)

    return make


def kandinsky(positive: dict[str, Any] | None = None, words: tuple[int, int] = (5, 5),
              **how: Any) -> HostFamily:  # fmt: skip
    texts = [
        [[drawn(1, n, 3584, seed=seed),
          {"pooled_output": drawn(1, 768, seed=seed + 50), **(positive or {})}]]
        for seed, n in enumerate(words, 1)
    ]  # fmt: skip
    how = {"latent": lambda: torch.zeros(1, 16, 3, 8, 12), **how}
    return HostFamily(
        kandinsky_model(), *texts, hooks=lambda n: [("double_block", i) for i in range(3)],
        tokens="x", own_call=kandinsky_block, **how,
    )  # fmt: skip


def minimax_model(**sizes: Any) -> Callable[[Any], Any]:
    def make(host: Any) -> Any:
        from comfy.ldm.minimax.model import MiniMaxH3Model

        given = {
            "hidden_size": 128, "num_layers": 3, "token_refiner_num_layers": 1,
            "num_attention_heads": 2, "attention_head_dim": 128, "ffn_hidden_size": 192,
            "text_dim": 48, "timestep_input_dim": 64, "time_embed_hidden_size": 64,
            "time_embed_dim": 32, "rope_inv_freq_len": 16, **sizes,
        }  # fmt: skip
        empty = MiniMaxH3Model(
            dtype=torch.float32, device="cpu", operations=host.ops.manual_cast, **given
        )
        weights = filled(empty, ("time_embedder.proj_out.weight",))
        return host.sd.load_diffusion_model_state_dict(weights)

    return make


def video_and_sound(height: int = 4, width: int = 6) -> Any:
    return nested(torch.zeros(1, 24, 7, height, width), torch.zeros(1, 32, 2, 37))


def minimax(positive: dict[str, Any] | None = None, model: Any = None, **how: Any) -> HostFamily:
    texts = [[[drawn(1, n, 48, seed=n), dict(positive or {})]] for n in (5, 6)]
    how = {"latent": video_and_sound, "frames": 7, **how}
    return HostFamily(
        model or minimax_model(), *texts,
        hooks=lambda n: [("double_block", i) for i in range(3)], **how,
    )  # fmt: skip


def levels_of_mask() -> Any:
    """Frames that stay, rows at half the noise, and sound that stays."""
    video, sound = torch.ones(1, 1, 7, 4, 6), torch.ones(1, 32, 2, 37)
    video[:, :, 0], video[:, :, 1, :2], sound[..., :5] = 0, 0.5, 0
    return nested(video, sound)


KEYFRAMES = [
    {"resolved_frame_index": 0, "latent": drawn(1, 24, 1, 4, 6, seed=4)},
    {"resolved_frame_index": 21, "latent": drawn(1, 24, 1, 4, 6, seed=5),
     "audio_latent": drawn(1, 32, 2, 3, seed=6)},
]  # fmt: skip
REFERENCES = [
    {"kind": "image", "latent_h": 4, "latent_w": 4, "latent": drawn(1, 24, 1, 4, 4, seed=4)},
    {"kind": "video_audio", "latent_t": 2, "latent_h": 4, "latent_w": 6, "ref_audio_t": 4,
     "latent": drawn(1, 24, 2, 4, 6, seed=5), "audio_latent": drawn(1, 32, 2, 4, seed=6)},
    {"kind": "audio", "ref_audio_t": 3, "audio_latent": drawn(1, 32, 2, 3, seed=7)},
]  # fmt: skip
CURVES = {"adaln_curve_grid": 33, "time_embed_dim": 8}

REPLACED = {"time_dim_replace": drawn(1, 16, 1, 8, 12, seed=5), **IMAGE}
REPLACED.pop("concat_latent_image")

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
    "kandinsky 5": kandinsky(),
    "kandinsky 5, texts apart": kandinsky(words=(5, 7)),
    "kandinsky 5, two clips": kandinsky(latent=lambda: torch.zeros(2, 16, 3, 8, 12)),
    "kandinsky 5, other size": kandinsky(latent=lambda: torch.zeros(1, 16, 5, 6, 4), frames=5),
    "kandinsky 5, first frame given": kandinsky(REPLACED, before=FRAME, frames=2),
    "minimax h3": minimax(),
    "minimax h3, odd sides": minimax(latent=lambda: video_and_sound(5, 7)),
    "minimax h3, keyframes": minimax({"minimax_keyframes": KEYFRAMES}),
    "minimax h3, references": minimax({"minimax_refs": REFERENCES}),
    "minimax h3, tags": minimax({"minimax_token_tags": torch.tensor([[1, 1, 0, 0, 1, 1]])}),
    "minimax h3, masks": minimax(mask=levels_of_mask),
    "minimax h3, curves": minimax(model=minimax_model(**CURVES)),
    **LTX_HOST_FAMILIES,
    "hunyuan video 1.5": newer(double=3),
    "hunyuan video 1.5, odd sides": newer(size=(2, 5, 7), single=1),
    "hunyuan video 1.5, glyphs": newer(texts(5, 1, **GLYPHS), byt5=True),
    "hunyuan video 1.5, image": newer(
        texts(5, 1, **VISION, **GLYPHS), texts(5, 2, **VISION), byt5=True
    ),
    "hunyuan video 1.5, mean flow": newer(meanflow=True),
}  # fmt: skip
