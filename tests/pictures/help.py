"""The picture of each node's help page: where the node goes, and what the shipped model makes."""

from __future__ import annotations

import dataclasses
import functools
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from motioncache_pack.motioncache_core import Trace, TraceHandle
from motioncache_pack.motioncache_core.demo import checkpoint
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from motioncache_pack.motioncache_core.report.timeline import timeline
from motioncache_pack.nodes import NODES
from motioncache_pack.nodes.pictures.motion_map import frames_sheet
from motioncache_pack.nodes.pictures.timeline import as_picture, font, labelled_timeline
from motioncache_pack.tests.pictures.thumbnails import ACCENT, BACK, BOX, EDGE, FAINT, WORDS
from motioncache_pack.tests.support.fake_comfy import harness
from PIL import Image, ImageDraw

WIDTH, MARGIN, ROOM = 640, 24, 592
STEPS, FRAMES = 24, 9
BUDGETS = (0.6, 0.4, 0.3)
LANCZOS = Image.Resampling.LANCZOS


class Runs:
    """The demo model through the pack's own nodes, each run made when it is first asked for."""

    def __init__(self) -> None:
        self.nodes = {node.define_schema().node_id: node for node in NODES}
        self.host = harness.Host()

    def execute(self, node_id: str, *args: Any, **kwargs: Any) -> Any:
        return self.nodes[node_id].execute(*args, **kwargs).result

    @property
    def scenes(self) -> list[str]:
        (scene, *_) = self.nodes["MotionCacheDemoModel"].define_schema().inputs
        return list(scene.options)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Frames `(F, 256, 256, 3)` of latents."""
        video: torch.Tensor = self.execute("MotionCacheDemoDecode", {"samples": samples}, 4)[0]
        return video

    @functools.cache  # noqa: B019
    def ordinary(
        self, scene: str, cached: bool, budget: float = checkpoint.SETTINGS.compute_budget
    ) -> tuple[torch.Tensor, Trace | None]:
        """Frames and trace of an ordinary run of a scene."""
        made = self.execute("MotionCacheDemoModel", scene, FRAMES, 1)
        model, positive, negative, latent, _ = made
        handle = None
        if cached:
            chosen = dataclasses.replace(checkpoint.SETTINGS, compute_budget=budget)
            model, handle = self.execute("MotionCachePatcher", model, "balanced", chosen)
        samples = self.host.run(model, positive, negative, latent["samples"], STEPS, 2.0, seed=0)
        return self.decode(samples), handle and handle.latest

    @functools.cache  # noqa: B019
    def forcing(self) -> Trace:
        """Trace of a diffusion-forcing run."""
        model, positive, negative, latent, _ = self.execute(
            "MotionCacheDemoModel", self.scenes[0], 12, 1
        )
        model, handle = self.execute("MotionCachePatcher", model, "balanced", checkpoint.SETTINGS)
        (sampler,) = self.execute("MotionCacheDiffusionForcing", chunk_frames=3, chunk_delay=6)
        guider = self.host.guider(model, positive, negative, 2.0)
        sigmas = self.host.sigmas(model, STEPS)
        start = latent["samples"]
        noise = self.host.sample.prepare_noise(start, 0)
        guider.sample(noise, start, sampler, sigmas, seed=0, disable_pbar=True)
        trace: Trace = handle.latest
        return trace


def chain(*boxes: str) -> Image.Image:
    """Nodes from left to right; * is one of ours, ! the one that the page is about."""
    picture = Image.new("RGB", (WIDTH, 100), BACK)
    pen = ImageDraw.Draw(picture)
    gap = 20
    width = (ROOM - gap * (len(boxes) - 1)) / len(boxes)
    for i, words in enumerate(boxes):
        x = MARGIN + i * (width + gap)
        if i:
            pen.line((x - gap, 52, x, 52), fill=EDGE, width=3)
        edge, thick = (WORDS, 3) if words[0] == "!" else (EDGE, 1)
        fill = ACCENT if words[0] in "*!" else BOX
        pen.rounded_rectangle((x, 24, x + width, 80), 9, fill=fill, outline=edge, width=thick)
        pen.text((x + width / 2, 52), words.lstrip("*!"), WORDS, font(17), anchor="mm")
    return picture


def wide(picture: Image.Image) -> Image.Image:
    """A picture over the whole room."""
    height = round(picture.height * ROOM / picture.width)
    sheet = Image.new("RGB", (WIDTH, height + 16), BACK)
    sheet.paste(picture.resize((ROOM, height), LANCZOS), (MARGIN, 0))
    return sheet


def row(pictures: list[Image.Image], captions: list[str], gap: int = 8) -> Image.Image:
    """Pictures of one size side by side, with words below."""
    side = (ROOM - gap * (len(pictures) - 1)) // len(pictures)
    lines = max(words.count("\n") + 1 for words in captions) if any(captions) else 0
    sheet = Image.new("RGB", (WIDTH, side + 12 + 22 * lines), BACK)
    pen = ImageDraw.Draw(sheet)
    for i, (picture, words) in enumerate(zip(pictures, captions, strict=True)):
        x = MARGIN + i * (side + gap)
        sheet.paste(picture.resize((side, side), LANCZOS), (x, 0))
        pen.multiline_text(
            (x + side / 2, side + 6), words, FAINT, font(16), anchor="ma", align="center"
        )
    return sheet


def stack(pictures: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (WIDTH, sum(p.height for p in pictures) + 12), BACK)
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    return sheet


def middle(video: torch.Tensor) -> Image.Image:
    return as_picture(video[len(video) // 2])


def _patcher(runs: Runs) -> list[Image.Image]:
    scene = runs.scenes[0]
    (before, _), (after, trace) = runs.ordinary(scene, False), runs.ordinary(scene, True)
    (maps,) = runs.execute(
        "MotionCacheMotionMap", _handle(trace), {}, "motion", -1, "magma", 0.6, before
    )
    panels = [middle(before), middle(after), middle(maps)]
    return [row(panels, ["without", "with", "motion map"])]


def _settings(runs: Runs) -> list[Image.Image]:
    parts = []
    for budget in BUDGETS:
        _, trace = runs.ordinary(runs.scenes[0], True, budget)
        strip = as_picture(timeline(trace)[0]).resize((ROOM, 34), Image.Resampling.NEAREST)
        part = Image.new("RGB", (WIDTH, 68), BACK)
        part.paste(strip, (MARGIN, 0))
        words = f"compute_budget {budget}: {compute_share(trace):.0%} of the tokens computed"
        ImageDraw.Draw(part).text((MARGIN, 38), words, FAINT, font(16))
        parts.append(part)
    return parts


def _motion_map(runs: Runs) -> list[Image.Image]:
    video, trace = runs.ordinary(runs.scenes[0], True)
    return [wide(as_picture(frames_sheet(trace, "motion", -1, "magma", video, 0.6)[0]))]


def _report(runs: Runs) -> list[Image.Image]:
    _, trace = runs.ordinary(runs.scenes[0], True)
    return [wide(as_picture(labelled_timeline(trace)[0]))]


def _forcing(runs: Runs) -> list[Image.Image]:
    return [wide(as_picture(labelled_timeline(runs.forcing())[0]))]


def _extend(runs: Runs) -> list[Image.Image]:
    video, _ = runs.ordinary(runs.scenes[0], True)
    empty = Image.new("RGB", (256, 256), BOX)
    pictures = [*map(as_picture, video[:5]), empty, empty, empty]
    return [row(pictures, ["given"] * 5 + ["new"] * 3)]


def _demo_model(runs: Runs) -> list[Image.Image]:
    starts, ends = [], []
    for scene in runs.scenes:
        ((_, shown),) = runs.execute("MotionCacheDemoModel", scene, FRAMES, 1)[1]
        starts.append(middle(runs.decode(shown["concat_latent_image"])))
        ends.append(middle(runs.ordinary(scene, True)[0]))
    words = [textwrap.fill(scene, 11) for scene in runs.scenes]
    return [row(starts, ["shown"] * len(starts)), row(ends, words)]


def _demo_decode(runs: Runs) -> list[Image.Image]:
    video, _ = runs.ordinary(runs.scenes[0], True)
    return [row([as_picture(frame) for frame in video], [""] * len(video), gap=4)]


def _compare(runs: Runs) -> list[Image.Image]:
    (before, _), (after, _) = (runs.ordinary(runs.scenes[0], cached) for cached in (False, True))
    pictures = runs.execute("MotionCacheCompare", before, after, "side by side", 10.0)[0]
    return [wide(middle(pictures))]


def _handle(trace: Trace) -> TraceHandle:
    """A trace as the nodes take it."""
    handle = TraceHandle()
    handle.add(trace)
    return handle


# where the node goes, and what it brings
PICTURES: dict[str, tuple[tuple[str, ...], Callable[[Runs], list[Image.Image]] | None]] = {
    "MotionCachePatcher": (("Load model", "LoRA", "!MotionCache", "KSampler"), _patcher),
    "MotionCacheRay": (("Ray UNET loader", "!MotionCache (Ray)", "Ray sampler"), None),
    "MotionCacheSettings": (("!Settings", "*MotionCache", "KSampler"), _settings),
    "MotionCacheMotionMap": (("*MotionCache", "KSampler", "!Motion Map"), _motion_map),
    "MotionCacheReport": (("*MotionCache", "KSampler", "!Report"), _report),
    "MotionCacheDiffusionForcing": (
        ("*MotionCache", "!Diffusion Forcing", "SamplerCustom"),
        _forcing,
    ),
    "MotionCacheExtendVideo": (("Video latent", "!Extend Video", "SamplerCustom"), _extend),
    "MotionCacheLoadSkyReels": (
        ("!Load SkyReels", "Shift", "*MotionCache", "Sampler"),
        None,
    ),
    "MotionCacheLoadMagi": (("!Load Magi", "*MotionCache", "*Sampling", "Sampler"), None),
    "MotionCacheMagiText": (("T5 XXL", "!Magi Text", "*Magi Sampling"), None),
    "MotionCacheMagiLatent": (("Video latent", "!Magi Latent", "Sampler"), _extend),
    "MotionCacheMagiSampling": (("*MotionCache", "!Magi Sampling", "Sampler"), None),
    "MotionCacheLoadMagiVAE": (("!Load Magi VAE", "VAE Decode", "Video"), None),
    "MotionCacheMagiTiny": (("!Magi Tiny", "*MotionCache", "*Sampling", "Sampler"), None),
    "MotionCacheCompare": (("Decode with", "!Compare", "Save"), _compare),
    "MotionCacheCalibrate": (("Load model", "!Calibrate", "KSampler"), None),
    "MotionCacheDemoModel": (("!Demo Model", "*MotionCache", "KSampler"), _demo_model),
    "MotionCacheDemoDecode": (("KSampler", "!Demo Decode", "Save"), _demo_decode),
}


def draw(node_id: str, runs: Runs) -> Image.Image:
    """The picture of a node's help page."""
    if node_id not in PICTURES:
        raise ValueError(f"{node_id} has no entry in PICTURES of tests/pictures/help.py")
    boxes, make = PICTURES[node_id]
    return stack([chain(*boxes), *(make(runs) if make else ())])
