"""The example workflows, described. `run.py` turns them into files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motioncache_pack.motioncache_core.demo import checkpoint
from motioncache_pack.tests.workflows.examples_forcing import FORCING_EXAMPLES
from motioncache_pack.tests.workflows.examples_image import wan21_i2v, wan22_5b
from motioncache_pack.tests.workflows.graph import Graph, Output
from motioncache_pack.tests.workflows.parts import (
    ACCENT,
    GROUP,
    NOTE,
    compare,
    image_and_latent,
    report,
    text_and_latent,
)

DEMO_NOTE = f"""\
## MotionCache in half a minute
Press **Run**. Nothing needs to be downloaded: a tiny model ships with the pack. It draws shapes \
that move over a still or panned background. {checkpoint.LIMITS}

**Look at**
- *Without | With | Motion map*: the same seed, computed in full and with MotionCache.
- *MotionCache Motion Map*: one picture per frame, bright where tokens change fast, which is where \
shapes move. Bright tokens are computed again sooner, dark ones wait longer.
- *What was saved*: one cell an evaluation. Orange is computed in full, darker in part, grey is \
reused.

**Turn**
- **compute_budget**: how much of the run is computed. Lower is faster and less exact.
- **motion_sensitivity**: 0 treats all tokens alike.
- **policy**: *random* computes as many tokens, but random ones. It shows what motion is worth.
- **view** of the motion map: *updates* counts how often each token was computed.
- **scene** of the demo model.

The settings node is as it comes: preset *balanced*. Without it the **preset** on the MotionCache \
node counts. **reuse_threshold** 0 is the same as not having MotionCache.
"""

COMPARE_NOTE = """\
## The same seed with and without MotionCache
Press **Run**. Nothing needs to be downloaded: a tiny model ships with the pack.

**MotionCache Compare** shows the video without, the video with, and where they differ. The error \
is multiplied by **gain** before it is shown; the colour bar says what its brightest colour means.

- **PSNR** is the size of the error in decibels, **SSIM** how alike edges and texture are (1 is \
equal), **temporal PSNR** the error of the changes from frame to frame: flicker, wrong motion.
- **mode** *wipe* puts one video left of a line and the other right of it, *difference* shows the \
error alone.

**Try**
- **reuse_threshold** 0 in the settings: the videos are *identical*.
- **compute_budget** 0.6 or 0.3: more or less of the run is computed.
- **policy** *random*: as many tokens, but random ones; *step*: about as much work, in whole steps.
- Take the settings node away, so that the **preset** counts.

To compare with your own model, put it in the place of the demo model: one sampler behind \
MotionCache, one without it, both with the same seed, size and steps.
"""

WAN21_NOTE = """\
## Wan 2.1 text to video with MotionCache
Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| wan2.1_t2v_1.3B_fp16.safetensors | diffusion_models |
| umt5_xxl_fp8_e4m3fn_scaled.safetensors | text_encoders |
| wan_2.1_vae.safetensors | vae |

All three are in *Comfy-Org/Wan_2.1_ComfyUI_repackaged* on Hugging Face. The 14B model goes into \
the same place.

**MotionCache** goes behind the loader, any LoRA and ModelSamplingSD3, right before the sampler. \
Its **preset** is the one thing to choose: *quality* computes most and stays closest to the \
uncached video, *fast* computes least. The report says what a run saved. To compare, bypass it \
(Ctrl+B) together with its report and motion map.

Runs of 8 steps or fewer are passed through unchanged: there is nothing to reuse. That includes \
runs with 4-step distillation LoRAs.
"""

# `{0}` is the name of the task in the files' names, `{1}` in words, `{2}` a sentence
WAN22_NOTE = """\
## Wan 2.2 14B {1} to video with MotionCache
Files, and where they go below ComfyUI/models:

| file | folder |
|---|---|
| wan2.2_{0}_high_noise_14B_fp8_scaled.safetensors | diffusion_models |
| wan2.2_{0}_low_noise_14B_fp8_scaled.safetensors | diffusion_models |
| umt5_xxl_fp8_e4m3fn_scaled.safetensors | text_encoders |
| wan_2.1_vae.safetensors | vae |

All are in *Comfy-Org/Wan_2.2_ComfyUI_Repackaged* on Hugging Face.{2}

**Two experts, two MotionCache nodes.** Each expert is a model of its own, so nothing is carried \
over: the cache starts afresh at the hand-over, and each expert sees 10 of the 20 steps. Its \
budget is a share of these 10, and its warm-up is part of it. That is why the settings node, which \
feeds both, has **compute_budget** 0.5.

An expert that gets 8 steps or fewer is passed through unchanged. That includes runs with 4-step \
distillation LoRAs. With more steps, move the hand-over of both samplers to half of them.
"""


START_IMAGE = """\
 The picture is ComfyUI's own *example.png*: choose yours in **Start image**, and say in the \
prompt what shall move."""


def demo() -> Graph:
    """The small model that ships with the pack, with and without MotionCache."""
    g = Graph("motioncache_demo")
    column = g.column(0, 440)
    column.add("MarkdownNote", 470, title="Start here", colours=NOTE, text=DEMO_NOTE)
    model = column.add("MotionCacheDemoModel", 230)
    settings = column.add("MotionCacheSettings", 400)

    column = g.column(520, 330)
    cache = column.add(
        "MotionCachePatcher", 175, colours=ACCENT, model=model["MODEL"],
        settings=settings["settings"],
    )  # fmt: skip
    both = {
        "steps": 24, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple",
        "positive": model["positive"], "negative": model["negative"],
        "latent_image": model["LATENT"],
    }  # fmt: skip
    cached = column.add("KSampler", 270, title="With MotionCache", model=cache["MODEL"], **both)
    column.y += 200
    plain = column.add("KSampler", 270, title="Without MotionCache", model=model["MODEL"], **both)

    column = compare(g, 900, cache["trace"], plain["LATENT"], cached["LATENT"], "motioncache_demo")
    report(column, cache["trace"], cached["LATENT"])
    return g


def with_and_without() -> Graph:
    """The same seed with and without MotionCache, compared."""
    g = Graph("motioncache_compare")
    column = g.column(0, 440)
    column.add("MarkdownNote", 500, title="Start here", colours=NOTE, text=COMPARE_NOTE)
    model = column.add("MotionCacheDemoModel", 205)
    settings = column.add("MotionCacheSettings", 400)

    column = g.column(520, 330)
    cache = column.add(
        "MotionCachePatcher", 175, colours=ACCENT, model=model["MODEL"],
        settings=settings["settings"],
    )  # fmt: skip
    both = {
        "steps": 24, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple",
        "positive": model["positive"], "negative": model["negative"],
        "latent_image": model["LATENT"],
    }  # fmt: skip
    cached = column.add("KSampler", 270, title="With MotionCache", model=cache["MODEL"], **both)
    after = column.add("MotionCacheDemoDecode", 110, title="Decode: with", samples=cached["LATENT"])
    plain = column.add("KSampler", 270, title="Without MotionCache", model=model["MODEL"], **both)
    before = column.add(
        "MotionCacheDemoDecode", 110, title="Decode: without", samples=plain["LATENT"]
    )

    column = g.column(900, 640)
    compared = column.add(
        "MotionCacheCompare", 720, colours=ACCENT, reference=before["IMAGE"],
        candidate=after["IMAGE"],
    )  # fmt: skip
    column.add("PreviewAny", 300, title="Numbers of every frame", source=compared["text"])

    column = g.column(1620, 800)
    column.add(
        "SaveAnimatedWEBP", 430, title="Without | With | Error", images=compared["IMAGE"],
        filename_prefix="motioncache_compare", lossless=False, quality=90,
    )  # fmt: skip
    report(column, cache["trace"], cached["LATENT"])
    g.column(2500, 560).add(
        "MotionCacheMotionMap", 640, trace=cache["trace"], samples=cached["LATENT"],
        images=after["IMAGE"],
    )  # fmt: skip
    return g


def wan21() -> Graph:
    """Wan 2.1 text to video."""
    g = Graph("wan21_t2v_motioncache")
    g.column(0, 440).add("MarkdownNote", 440, title="Read me", colours=NOTE, text=WAN21_NOTE)
    conditioning = text_and_latent(g.column(500, 380), 832, 480)

    column = g.column(940, 360)
    loader = column.add("UNETLoader", 100, unet_name="wan2.1_t2v_1.3B_fp16.safetensors")
    shifted = column.add("ModelSamplingSD3", 80, model=loader["MODEL"], shift=8.0)
    cache = column.add("MotionCachePatcher", 175, colours=ACCENT, model=shifted["MODEL"])
    vae = column.add("VAELoader", 80, vae_name="wan_2.1_vae.safetensors")

    column = g.column(1360, 320)
    sampler = column.add(
        "KSampler", 270, model=cache["MODEL"], steps=30, cfg=6.0, sampler_name="uni_pc",
        scheduler="simple", **conditioning,
    )  # fmt: skip
    frames = column.add("VAEDecode", 80, samples=sampler["LATENT"], vae=vae["VAE"])
    video = column.add("CreateVideo", 120, images=frames["IMAGE"], fps=16.0)

    column = g.column(1740, 560)
    column.add("SaveVideo", 500, video=video["VIDEO"], filename_prefix="video/motioncache_wan21")
    report(column, cache["trace"], sampler["LATENT"])
    g.column(2360, 560).add(
        "MotionCacheMotionMap", 640, trace=cache["trace"], samples=sampler["LATENT"],
        images=frames["IMAGE"],
    )  # fmt: skip
    return g


def wan22() -> Graph:
    """Wan 2.2 14B text to video: two experts."""
    return _two_experts("t2v", WAN22_NOTE.format("t2v", "text", ""))


def wan22_i2v() -> Graph:
    """Wan 2.2 14B image to video: two experts."""
    return _two_experts("i2v", WAN22_NOTE.format("i2v", "image", START_IMAGE))


def _two_experts(task: str, note: str) -> Graph:
    g = Graph(f"wan22_14b_{task}_motioncache")
    column = g.column(0, 440)
    column.add("MarkdownNote", 480, title="Read me", colours=NOTE, text=note)
    settings = column.add(
        "MotionCacheSettings", 400, title="Settings of both experts", compute_budget=0.5
    )
    column = g.column(500, 380)
    vae = column.add("VAELoader", 80, vae_name="wan_2.1_vae.safetensors")
    if task == "t2v":
        conditioning = text_and_latent(column, 640, 640)
    else:
        conditioning = image_and_latent(column, vae["VAE"], 640, 640, vision=False)
    empty = conditioning.pop("latent_image")

    def expert(name: str, y: int, latent: Output, **steps: Any) -> Output:
        column = g.column(960, 400, y)
        loader = column.add(
            "UNETLoader", 100, title=f"Load the {name} noise expert",
            unet_name=f"wan2.2_{task}_{name}_noise_14B_fp8_scaled.safetensors",
        )  # fmt: skip
        shifted = column.add("ModelSamplingSD3", 80, model=loader["MODEL"], shift=8.0)
        cache = column.add(
            "MotionCachePatcher", 175, title=f"MotionCache: {name} noise", colours=ACCENT,
            model=shifted["MODEL"], settings=settings["settings"],
        )  # fmt: skip
        sampler = g.column(1420, 340, y).add(
            "KSamplerAdvanced", 345, title=f"Sample {name} noise", model=cache["MODEL"],
            latent_image=latent, steps=20, cfg=3.5, sampler_name="euler", scheduler="simple",
            **conditioning, **steps,
        )  # fmt: skip
        trace = {"trace": cache["trace"], "samples": sampler["LATENT"]}
        report(g.column(1820, 480, y), **trace, title=f"What was saved: {name} noise", height=560)
        last = g.column(2360, 480, y).add(
            "MotionCacheMotionMap", 560, title=f"Motion map: {name} noise", view="updates", **trace
        )
        g.group(f"{name.capitalize()} noise expert", loader, cache, last, colour=GROUP)
        return sampler["LATENT"]

    leftover = expert(
        "high", 45, empty, start_at_step=0, end_at_step=10, return_with_leftover_noise="enable"
    )
    latent = expert("low", 725, leftover, add_noise="disable", start_at_step=10)

    column = g.column(2920, 560, 45)
    frames = column.add("VAEDecode", 80, samples=latent, vae=vae["VAE"])
    video = column.add("CreateVideo", 120, images=frames["IMAGE"], fps=16.0)
    column.add("SaveVideo", 700, video=video["VIDEO"], filename_prefix=f"video/{g.name}")
    return g


EXAMPLES: dict[str, Callable[[], Graph]] = {
    "motioncache_demo": demo,
    "motioncache_compare": with_and_without,
    "wan21_t2v_motioncache": wan21,
    "wan21_i2v_motioncache": wan21_i2v,
    "wan22_14b_t2v_motioncache": wan22,
    "wan22_14b_i2v_motioncache": wan22_i2v,
    "wan22_5b_motioncache": wan22_5b,
    **FORCING_EXAMPLES,
}
# need no file
DEMOS = ("motioncache_demo", "motioncache_compare", "motioncache_demo_df")
