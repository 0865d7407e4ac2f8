"""The example workflows that sample by diffusion forcing, described."""

from __future__ import annotations

from collections.abc import Callable

from motioncache_pack.tests.workflows import notes_forcing as notes
from motioncache_pack.tests.workflows.graph import Column, Graph, Node, Output
from motioncache_pack.tests.workflows.parts import (
    ACCENT,
    GROUP,
    NOTE,
    compare,
    report,
    text_and_latent,
)

FORCING, SAMPLER, SCHEDULER = 300, 270, 130
SKYREELS_FILE = "SkyReels-V2-DF-1.3B-540P.safetensors"
VAE_FILE = "wan_2.1_vae.safetensors"


def demo() -> Graph:
    """The small model that ships with the pack, chunk by chunk, with and without MotionCache."""
    g = Graph("motioncache_demo_df")
    column = g.column(0, 440)
    column.add("MarkdownNote", 480, title="Start here", colours=NOTE, text=notes.DEMO)
    model = column.add("MotionCacheDemoModel", 205, frames=12)
    settings = column.add("MotionCacheSettings", 400)

    column = g.column(520, 320)
    cache = column.add(
        "MotionCachePatcher", 175, colours=ACCENT, model=model["MODEL"],
        settings=settings["settings"],
    )  # fmt: skip
    forcing = column.add(
        "MotionCacheDiffusionForcing", FORCING, colours=ACCENT, chunk_frames=3, chunk_delay=6
    )
    sigmas = column.add(
        "BasicScheduler", SCHEDULER, model=model["MODEL"], scheduler="simple", steps=24,
    )  # fmt: skip
    both = {
        "cfg": 2.0, "positive": model["positive"], "negative": model["negative"],
        "sampler": forcing["SAMPLER"], "sigmas": sigmas["SIGMAS"], "latent_image": model["LATENT"],
    }  # fmt: skip

    column = g.column(920, 320)
    cached = column.add(
        "SamplerCustom", SAMPLER, title="With MotionCache", model=cache["MODEL"], **both
    )
    column.y += 200
    plain = column.add(
        "SamplerCustom", SAMPLER, title="Without MotionCache", model=model["MODEL"], **both
    )

    column = compare(
        g, 1320, cache["trace"], plain["output"], cached["output"], "motioncache_demo_df"
    )
    report(column, cache["trace"], cached["output"], height=680)
    return g


def skyreels() -> Graph:
    """SkyReels-V2, 97 frames, with the settings of the paper's experiments."""
    g = Graph("skyreels_v2_df_motioncache")
    g.column(0, 440).add("MarkdownNote", 560, title="Read me", colours=NOTE, text=notes.SKYREELS)
    conditioning = text_and_latent(g.column(500, 380), 960, 544, 97)
    column = g.column(940, 360)
    model = _load_skyreels(column)
    _one_clip(g, column, model, conditioning, cfg=6.0, fps=24.0, preset="paper")
    return g


def causal() -> Graph:
    """A many-step autoregressive Wan: one chunk after the other, with CFG."""
    g = Graph("causal_forcing_ar_motioncache")
    g.column(0, 440).add("MarkdownNote", 640, title="Read me", colours=NOTE, text=notes.CAUSAL)
    conditioning = text_and_latent(g.column(500, 380), 832, 480, 81)
    column = g.column(940, 360)
    loader = column.add("UNETLoader", 100, unet_name="causal_forcing_chunkwise_ar.safetensors")
    model = column.add("ModelSamplingSD3", 80, model=loader["MODEL"], shift=5.0)["MODEL"]
    _one_clip(
        g, column, model, conditioning, cfg=3.0, fps=16.0, preset="balanced", chunk_frames=3,
        chunk_delay=50,
    )  # fmt: skip
    return g


def long_video() -> Graph:
    """SkyReels-V2 beyond its window: two windows, then an extension of the result."""
    g = Graph("skyreels_v2_df_long")
    g.column(0, 440).add("MarkdownNote", 620, title="Read me", colours=NOTE, text=notes.LONG)
    column = g.column(500, 380)
    conditioning = text_and_latent(column, 960, 544, 177)
    empty = conditioning.pop("latent_image")
    vae = column.add("VAELoader", 80, vae_name=VAE_FILE)

    column = g.column(960, 360)
    model = _load_skyreels(column)
    forcing = column.add(
        "MotionCacheDiffusionForcing", FORCING, colours=ACCENT, window_frames=25, overlap_frames=5,
        condition_noise=0.02,
    )  # fmt: skip
    sigmas = column.add("BasicScheduler", SCHEDULER, model=model, scheduler="simple", steps=50)
    shared = {**conditioning, "sampler": forcing["SAMPLER"], "sigmas": sigmas["SIGMAS"]}

    def part(
        title: str, column: Column, first: list[Node], latent: Output, seed: int, name: str
    ) -> Output:
        top = first[0].box[1] if first else column.y
        cache = column.add("MotionCachePatcher", 175, colours=ACCENT, model=model, preset="paper")
        sampler = column.add(
            "SamplerCustom", SAMPLER, model=cache["MODEL"], latent_image=latent, noise_seed=seed,
            cfg=6.0, **shared,
        )  # fmt: skip
        frames = column.add("VAEDecode", 80, samples=sampler["output"], vae=vae["VAE"])
        video = column.add("CreateVideo", 120, images=frames["IMAGE"], fps=24.0)
        save = g.column(1860, 560, top).add(
            "SaveVideo", 500, video=video["VIDEO"], filename_prefix=f"video/{name}"
        )
        report(g.column(2460, 560, top), cache["trace"], sampler["output"], height=560)
        last = g.column(3060, 480, top).add(
            "MotionCacheMotionMap", 560, trace=cache["trace"], samples=sampler["output"]
        )
        g.group(title, *first, cache, video, save, last, colour=GROUP)
        return sampler["output"]

    column = g.column(1420, 360, 45)
    result = part("177 frames", column, [], empty, 0, "motioncache_long")
    column.y += 75
    extend = column.add("MotionCacheExtendVideo", 100, colours=ACCENT, samples=result, frames=20)
    part("Go on: 80 frames more", column, [extend], extend["LATENT"], 1, "motioncache_longer")
    return g


def _load_skyreels(column: Column) -> Output:
    """The model, and below it what the loader says about the file."""
    loader = column.add(
        "MotionCacheLoadSkyReels", 160, colours=ACCENT, model_name=SKYREELS_FILE, fps="24"
    )
    shifted = column.add("ModelSamplingSD3", 80, model=loader["MODEL"], shift=8.0)
    column.add("PreviewAny", 200, title="What the file is", source=loader["text"])
    return shifted["MODEL"]


def _one_clip(
    g: Graph,
    column: Column,
    model: Output,
    conditioning: dict[str, Output],
    *,
    cfg: float,
    fps: float,
    preset: str,
    **forcing: int,
) -> None:
    """From the model to the video and what is to be seen of the run, in 50 steps."""
    cache = column.add("MotionCachePatcher", 175, colours=ACCENT, model=model, preset=preset)
    vae = column.add("VAELoader", 80, vae_name=VAE_FILE)

    column = g.column(1360, 360)
    chunks = column.add("MotionCacheDiffusionForcing", FORCING, colours=ACCENT, **forcing)
    sigmas = column.add("BasicScheduler", SCHEDULER, model=model, scheduler="simple", steps=50)
    sampler = column.add(
        "SamplerCustom", SAMPLER, model=cache["MODEL"], cfg=cfg, sampler=chunks["SAMPLER"],
        sigmas=sigmas["SIGMAS"], **conditioning,
    )  # fmt: skip
    frames = column.add("VAEDecode", 80, samples=sampler["output"], vae=vae["VAE"])
    video = column.add("CreateVideo", 120, images=frames["IMAGE"], fps=fps)

    column = g.column(1780, 560)
    column.add("SaveVideo", 500, video=video["VIDEO"], filename_prefix=f"video/{g.name}")
    column = g.column(2400, 560)
    report(column, cache["trace"], sampler["output"], height=620)
    g.column(3020, 560).add(
        "MotionCacheMotionMap", 640, trace=cache["trace"], samples=sampler["output"],
        images=frames["IMAGE"],
    )  # fmt: skip


FORCING_EXAMPLES: dict[str, Callable[[], Graph]] = {
    "motioncache_demo_df": demo,
    "skyreels_v2_df_motioncache": skyreels,
    "skyreels_v2_df_long": long_video,
    "causal_forcing_ar_motioncache": causal,
}
