"""The example workflows that start from a picture, or may."""

from __future__ import annotations

from motioncache_pack.tests.workflows.graph import Graph, Node, Output
from motioncache_pack.tests.workflows.parts import (
    ACCENT,
    NOTE,
    image_and_latent,
    prompts,
    report,
)

# after how many steps there is something to reuse
FEW_STEPS = """\
Runs of 8 steps or fewer are passed through unchanged: there is nothing to reuse. That includes \
runs with 4-step distillation LoRAs."""

UNTRIED = """\
**Not tried with the real weights**: we had neither the files nor a GPU. What is tested is the \
same network at a tiny size with random weights, in ComfyUI."""

WAN21_I2V_NOTE = f"""\
## Wan 2.1 image to video with MotionCache
Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| wan2.1_i2v_480p_14B_fp16.safetensors | diffusion_models |
| umt5_xxl_fp8_e4m3fn_scaled.safetensors | text_encoders |
| clip_vision_h.safetensors | clip_vision |
| wan_2.1_vae.safetensors | vae |

All four are in *Comfy-Org/Wan_2.1_ComfyUI_repackaged* on Hugging Face. The picture is ComfyUI's \
own *example.png*: choose yours in **Start image**, and say in the prompt what shall move.

**MotionCache** goes behind the loader, any LoRA and ModelSamplingSD3, right before the sampler. \
Its **preset** is the one thing to choose. The report says what a run saved. To compare, bypass it \
(Ctrl+B) together with its report and motion map.

{FEW_STEPS}

{UNTRIED}
"""

WAN22_5B_NOTE = f"""\
## Wan 2.2 5B with MotionCache
Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| wan2.2_ti2v_5B_fp16.safetensors | diffusion_models |
| umt5_xxl_fp8_e4m3fn_scaled.safetensors | text_encoders |
| wan2.2_vae.safetensors | vae |

All are in *Comfy-Org/Wan_2.2_ComfyUI_Repackaged* on Hugging Face. This model has a VAE of its own.

**Text to video** as it is. **Image to video**: add *Load Image* and connect it to **start_image** \
of *Empty video latent*. The first frame is then given.

**MotionCache** goes behind the loader, any LoRA and ModelSamplingSD3, right before the sampler. \
Its **preset** is the one thing to choose. The report says what a run saved. To compare, bypass it \
(Ctrl+B) together with its report and motion map.

{FEW_STEPS}

{UNTRIED}
"""


def wan21_i2v() -> Graph:
    """Wan 2.1 image to video."""
    g = Graph("wan21_i2v_motioncache")
    column = g.column(0, 440)
    column.add("MarkdownNote", 560, title="Read me", colours=NOTE, text=WAN21_I2V_NOTE)
    vae = column.add("VAELoader", 80, vae_name="wan_2.1_vae.safetensors")
    conditioning = image_and_latent(g.column(500, 380), vae["VAE"], 832, 480, vision=True)
    _one_model(
        g, "wan2.1_i2v_480p_14B_fp16.safetensors", vae, conditioning, shift=3.0, cfg=5.0,
        fps=16.0,
    )  # fmt: skip
    return g


def wan22_5b() -> Graph:
    """Wan 2.2 5B, one model for text and for an image."""
    g = Graph("wan22_5b_motioncache")
    column = g.column(0, 440)
    column.add("MarkdownNote", 560, title="Read me", colours=NOTE, text=WAN22_5B_NOTE)
    vae = column.add("VAELoader", 80, vae_name="wan2.2_vae.safetensors")
    column = g.column(500, 380)
    both = prompts(column)
    latent = column.add(
        "Wan22ImageToVideoLatent", 180, title="Empty video latent", vae=vae["VAE"], length=121
    )
    conditioning = {**both, "latent_image": latent["LATENT"]}
    _one_model(
        g, "wan2.2_ti2v_5B_fp16.safetensors", vae, conditioning, shift=8.0, cfg=5.0, fps=24.0
    )
    return g


def _one_model(
    g: Graph,
    file: str,
    vae: Node,
    conditioning: dict[str, Output],
    *,
    shift: float,
    cfg: float,
    fps: float,
) -> None:
    """From the model to the video and what is to be seen of the run, in 30 steps."""
    column = g.column(940, 360)
    loader = column.add("UNETLoader", 100, unet_name=file)
    shifted = column.add("ModelSamplingSD3", 80, model=loader["MODEL"], shift=shift)
    cache = column.add("MotionCachePatcher", 175, colours=ACCENT, model=shifted["MODEL"])

    column = g.column(1360, 320)
    sampler = column.add(
        "KSampler", 270, model=cache["MODEL"], steps=30, cfg=cfg, sampler_name="uni_pc",
        scheduler="simple", **conditioning,
    )  # fmt: skip
    frames = column.add("VAEDecode", 80, samples=sampler["LATENT"], vae=vae["VAE"])
    video = column.add("CreateVideo", 120, images=frames["IMAGE"], fps=fps)

    column = g.column(1740, 560)
    column.add("SaveVideo", 500, video=video["VIDEO"], filename_prefix=f"video/{g.name}")
    report(column, cache["trace"], sampler["LATENT"])
    g.column(2360, 560).add(
        "MotionCacheMotionMap", 640, trace=cache["trace"], samples=sampler["LATENT"],
        images=frames["IMAGE"],
    )  # fmt: skip
