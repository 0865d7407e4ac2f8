"""What several example workflows share: colours, prompts and groups of nodes."""

from __future__ import annotations

from motioncache_pack.tests.workflows.graph import Column, Graph, Output

# title bar and body
ACCENT = ("#2a363b", "#3f5159")
NOTE = ("#432", "#653")
GROUP = "#8aa"

PROMPT = (
    "A red fox walks from left to right through fresh snow at the edge of a birch forest, the "
    "camera stands still, soft morning light, detailed fur."
)
NEGATIVE = "blurry, overexposed, static, subtitles, watermark, low quality, deformed"


def report(
    column: Column,
    trace: Output,
    samples: Output,
    title: str = "What was saved",
    height: int = 580,
) -> None:
    """The report, which shows its text and the timeline on its node."""
    column.add("MotionCacheReport", height, title=title, trace=trace, samples=samples)


def prompts(column: Column) -> dict[str, Output]:
    """The prompts, as inputs of a sampler."""
    clip = column.add(
        "CLIPLoader", 130, clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"
    )
    prompt = column.add("CLIPTextEncode", 160, title="Prompt", clip=clip["CLIP"], text=PROMPT)
    negative = column.add(
        "CLIPTextEncode", 120, title="Negative prompt", clip=clip["CLIP"], text=NEGATIVE
    )
    return {"positive": prompt["CONDITIONING"], "negative": negative["CONDITIONING"]}


def text_and_latent(column: Column, width: int, height: int, length: int = 81) -> dict[str, Output]:
    """Prompts and an empty video of `length` frames, as inputs of a sampler."""
    both = prompts(column)
    latent = column.add(
        "EmptyHunyuanLatentVideo", 150, title="Empty video latent", width=width, height=height,
        length=length,
    )  # fmt: skip
    return {**both, "latent_image": latent["LATENT"]}


def image_and_latent(
    column: Column, vae: Output, width: int, height: int, vision: bool
) -> dict[str, Output]:
    """Prompts, a start image and an empty video of 81 frames, as inputs of a sampler.

    Args:
        vision: show the image to a CLIP vision model too, as Wan 2.1 wants it.
    """
    both = prompts(column)
    image = column.add("LoadImage", 330, title="Start image", image="example.png")
    seen = {}
    if vision:
        loader = column.add("CLIPVisionLoader", 80, clip_name="clip_vision_h.safetensors")
        encoded = column.add(
            "CLIPVisionEncode", 100, clip_vision=loader["CLIP_VISION"], image=image["IMAGE"],
            crop="none",
        )  # fmt: skip
        seen["clip_vision_output"] = encoded["CLIP_VISION_OUTPUT"]
    video = column.add(
        "WanImageToVideo", 230, **both, vae=vae, width=width, height=height,
        start_image=image["IMAGE"], **seen,
    )  # fmt: skip
    return {
        "positive": video["positive"],
        "negative": video["negative"],
        "latent_image": video["latent"],
    }


def compare(
    g: Graph, x: int, trace: Output, without: Output, cached: Output, prefix: str
) -> Column:
    """Decode two results of the demo model and show them beside the motion map, from `x` on."""
    column = g.column(x, 480)
    after = column.add("MotionCacheDemoDecode", 110, title="Decode: with", samples=cached)
    motion = column.add(
        "MotionCacheMotionMap", 620, trace=trace, samples=cached, images=after["IMAGE"]
    )
    before = column.add("MotionCacheDemoDecode", 110, title="Decode: without", samples=without)

    column = g.column(x + 560, 260)
    pair = column.add(
        "ImageStitch", 160, title="Without | With", image1=before["IMAGE"], image2=after["IMAGE"],
        spacing_width=8,
    )  # fmt: skip
    three = column.add(
        "ImageStitch", 160, title="... | Motion map", image1=pair["IMAGE"], image2=motion["IMAGE"],
        spacing_width=8,
    )  # fmt: skip

    column = g.column(x + 900, 800)
    column.add(
        "SaveAnimatedWEBP", 470, title="Without | With | Motion map", images=three["IMAGE"],
        filename_prefix=prefix, lossless=False, quality=90,
    )  # fmt: skip
    return column
