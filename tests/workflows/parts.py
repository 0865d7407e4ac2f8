"""What several example workflows share: colours, prompts and groups of nodes."""

from __future__ import annotations

from motioncache_pack.tests.workflows.graph import Column, Output

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
    timeline: int = 0,
) -> None:
    """The report as text and, `timeline` high, as a picture."""
    node = column.add("MotionCacheReport", 120, trace=trace, samples=samples)
    column.add("PreviewAny", 270, title=title, source=node["text"])
    if timeline:
        column.add("PreviewImage", timeline, title="Timeline", images=node["timeline"])


def text_and_latent(column: Column, width: int, height: int, length: int = 81) -> dict[str, Output]:
    """Prompts and an empty video of `length` frames, as inputs of a sampler."""
    clip = column.add(
        "CLIPLoader", 130, clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"
    )
    prompt = column.add("CLIPTextEncode", 160, title="Prompt", clip=clip["CLIP"], text=PROMPT)
    negative = column.add(
        "CLIPTextEncode", 120, title="Negative prompt", clip=clip["CLIP"], text=NEGATIVE
    )
    latent = column.add(
        "EmptyHunyuanLatentVideo", 150, title="Empty video latent", width=width, height=height,
        length=length,
    )  # fmt: skip
    return {
        "positive": prompt["CONDITIONING"],
        "negative": negative["CONDITIONING"],
        "latent_image": latent["LATENT"],
    }
