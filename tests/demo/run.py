"""Sample a small video model without and with MotionCache and show what differs.

    python tests/demo/run.py --out out/demo

Writes the two videos, both side by side with their difference, the motion map and `report.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]


def load_pack() -> None:
    """Make the repository importable as one package, as ComfyUI does."""
    spec = importlib.util.spec_from_file_location(
        "motioncache_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise RuntimeError(f"cannot load the pack from {ROOT}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["motioncache_pack"] = module
    spec.loader.exec_module(module)


load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.motioncache_core import PRESETS  # noqa: E402
from motioncache_pack.motioncache_core.call import RunFacts  # noqa: E402
from motioncache_pack.motioncache_core.demo import checkpoint, codec, scenes  # noqa: E402
from motioncache_pack.motioncache_core.demo.sampler import (  # noqa: E402
    SampleOptions,
    cached_sample,
    sample,
)
from motioncache_pack.motioncache_core.heatmap import render, timeline  # noqa: E402
from motioncache_pack.motioncache_core.report import compute_share, summary, text  # noqa: E402


def frames_of(video: torch.Tensor, scale: int) -> list[Image.Image]:
    """`(F, H, W, 3)` in 0..1 as enlarged pictures."""
    out = []
    for frame in video:
        picture = Image.fromarray((frame.clamp(0, 1).numpy() * 255).round().astype(np.uint8))
        size = (picture.width * scale, picture.height * scale)
        out.append(picture.resize(size, Image.Resampling.BICUBIC if scale > 2 else 0))
    return out


def save_animation(pictures: list[Image.Image], path: Path, fps: int = 6) -> None:
    """An animated WebP that repeats."""
    first, *rest = pictures
    first.save(path, save_all=True, append_images=rest, duration=1000 // fps, loop=0, quality=90)


def beside(rows: list[list[Image.Image]]) -> list[Image.Image]:
    """Several animations side by side, with a gap."""
    out = []
    for pictures in zip(*rows, strict=True):
        width = sum(p.width for p in pictures) + 8 * (len(pictures) - 1)
        sheet = Image.new("RGB", (width, pictures[0].height), "white")
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, 0))
            left += picture.width + 8
        out.append(sheet)
    return out


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """All pictures of an animation in one row."""
    width = pictures[0].width
    sheet = Image.new("RGB", (width * len(pictures) + 4 * (len(pictures) - 1), pictures[0].height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * (width + 4), 0))
    return sheet


def similarity(reference: torch.Tensor, candidate: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM (mean over frames) of two videos `(F, H, W, 3)` in 0..1."""
    a, b = reference.numpy(), candidate.numpy()
    if np.array_equal(a, b):
        return float("inf"), 1.0
    ssim = [
        structural_similarity(x, y, data_range=1.0, channel_axis=-1)
        for x, y in zip(a, b, strict=True)
    ]
    return float(peak_signal_noise_ratio(a, b, data_range=1.0)), statistics.fmean(ssim)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--scene", default=next(iter(scenes.SCENES)), choices=list(scenes.SCENES))
    parser.add_argument("--preset", choices=list(PRESETS), help="instead of the demo's settings")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = checkpoint.load()
    scene = scenes.SCENES[args.scene]
    positive, negative = (scenes.text_states(s)[None] for s in (scene, None))
    side = scenes.SIZE // codec.BLOCK
    rng = torch.Generator().manual_seed(args.seed)
    noise = torch.randn(1, codec.CHANNELS, args.frames, side, side, generator=rng)
    start = codec.encode(scenes.sketch(scene, args.frames)[None])
    options = SampleOptions(steps=args.steps, shift=checkpoint.SHIFT, denoise=checkpoint.DENOISE)
    settings = PRESETS[args.preset] if args.preset else checkpoint.SETTINGS
    facts = RunFacts(sigmas=options.sigmas(), profile=checkpoint.profile())
    print(f"Scene: {scenes.describe(scene)}; {args.steps} steps, seed {args.seed}")

    # the first evaluations of a process are slower; neither run should pay for them
    sample(model, positive, negative, noise, SampleOptions(steps=2, shift=checkpoint.SHIFT))
    with tqdm(total=args.steps, desc="without MotionCache", unit="step") as bar:
        started = time.perf_counter()
        plain = sample(
            model, positive, negative, noise, options, None, lambda *_: bar.update(), start
        )
        plain_seconds = time.perf_counter() - started
    with tqdm(total=args.steps, desc="with MotionCache   ", unit="step") as bar:
        started = time.perf_counter()
        cached, trace = cached_sample(
            model, positive, negative, noise, options, settings, kernels, facts,
            lambda *_: bar.update(), start,
        )  # fmt: skip
        cached_seconds = time.perf_counter() - started

    videos = [codec.decode(latents)[0] for latents in (plain, cached)]
    error = ((videos[0] - videos[1]).abs() * 5).clamp(0, 1)
    shown = [frames_of(v, 4) for v in (*videos, error)]
    save_animation(shown[0], args.out / "without.webp")
    save_animation(shown[1], args.out / "with.webp")
    save_animation(beside(shown), args.out / "side_by_side.webp")
    contact_sheet(frames_of(videos[0], 2)).save(args.out / "without.png")
    contact_sheet(frames_of(videos[1], 2)).save(args.out / "with.png")
    psnr, ssim = similarity(*videos)
    report = summary(trace)
    report["demo"] = {
        "scene": args.scene,
        "steps": args.steps,
        "seed": args.seed,
        "preset": args.preset or "the demo's settings",
        "seconds_without": round(plain_seconds, 3),
        "seconds_with": round(cached_seconds, 3),
        "wall_clock_ratio": round(plain_seconds / cached_seconds, 3),
        "psnr_db": round(psnr, 3),
        "ssim": round(ssim, 5),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    contact_sheet(frames_of(timeline(trace), 1)).save(args.out / "timeline.png")
    has_map = any(e.weight is not None for e in trace.evaluations)
    if has_map:
        maps = frames_of(render(trace, "motion"), 1)
        contact_sheet(maps).save(args.out / "motion_map.png")
        overlay = render(trace, "motion", images=videos[0], opacity=0.5)
        save_animation(frames_of(overlay, 4), args.out / "motion_map.webp")

    print()
    print(text(trace))
    print()
    totals = report["totals"]
    for name, value in (
        ("evaluations", f"{totals['dense']} dense, {totals['partial']} partial, "
                        f"{totals['reuse']} reused"),
        ("tokens computed", f"{compute_share(trace):.1%} of the uncached run"),
        ("wall clock", f"{plain_seconds:.2f} s -> {cached_seconds:.2f} s, "
                       f"{plain_seconds / cached_seconds:.2f}x"),
        ("PSNR / SSIM", f"{psnr:.2f} dB / {ssim:.4f} against the uncached video"),
    ):  # fmt: skip
        print(f"  {name:16} {value}")
    print(f"\nPictures and report: {args.out}/")
    if not has_map:
        print("No motion map was made: the run never reached the motion phase.")


if __name__ == "__main__":
    main()
