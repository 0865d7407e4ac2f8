"""Sample a small video model without and with MotionCache and show what differs.

    python tests/demo/run.py --out out/demo

Two runs: an ordinary one, and a diffusion-forcing one whose chunks denoise one behind the other.
Each writes its videos, side by side with their difference, timeline and report; the ordinary one
its motion map as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import page
import torch
from pictures import beside, contact_sheet, frames_of, save_animation, similarity
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tests" / "support"))

from pack_loader import load_pack  # noqa: E402

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.motioncache_core import (  # noqa: E402
    PRESETS,
    ForcingOptions,
    MotionCacheSettings,
    Trace,
)
from motioncache_pack.motioncache_core.demo import checkpoint, clips, codec, scenes  # noqa: E402
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample  # noqa: E402
from motioncache_pack.motioncache_core.demo.sampler import (  # noqa: E402
    SampleOptions,
    cached_sample,
    sample,
)
from motioncache_pack.motioncache_core.report.compute_share import compute_share  # noqa: E402
from motioncache_pack.motioncache_core.report.motion_map import render  # noqa: E402
from motioncache_pack.motioncache_core.report.report_json import summary  # noqa: E402
from motioncache_pack.motioncache_core.report.report_text import text  # noqa: E402
from motioncache_pack.motioncache_core.report.timeline import timeline  # noqa: E402
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts  # noqa: E402

FORCING_FRAMES = 12
FORCING: dict[str, Any] = {"chunk_frames": 3, "chunk_delay": 6}


class Demo:
    """The model, a scene and the noise that all runs start from."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = checkpoint.load()
        self.scene = scenes.SCENES[args.scene]
        self.settings = PRESETS[args.preset] if args.preset else checkpoint.SETTINGS
        self.options = SampleOptions(steps=args.steps, shift=checkpoint.SHIFT)
        self.facts = RunFacts(sigmas=self.options.sigmas(), profile=checkpoint.profile())

    def inputs(self, frames: int) -> tuple[clips.Clip, torch.Tensor]:
        """The clip, and the noise to start from."""
        clip = clips.clip(self.scene, frames)
        return clip, clip.noise(self.args.seed)


def timed(label: str, run: Any) -> tuple[Any, float]:
    """What `run(progress)` returns, and its seconds; shows a bar."""
    with tqdm(desc=label, unit="step") as bar:

        def progress(done: int, total: int, *_: Any) -> None:
            bar.total = total
            bar.update()

        started = time.perf_counter()
        out = run(progress)
        return out, time.perf_counter() - started


def ordinary(demo: Demo, out: Path) -> str:
    """The same seed without and with MotionCache; returns the report."""
    clip, noise = demo.inputs(demo.args.frames)
    shown = {"conditions": clip.conditions}
    plain, plain_seconds = timed(
        "without MotionCache",
        lambda bar: sample(demo.model, *clip.text, noise, demo.options, progress=bar, **shown),
    )
    (cached, trace), cached_seconds = timed(
        "with MotionCache   ",
        lambda bar: cached_sample(
            demo.model, *clip.text, noise, demo.options, demo.settings, kernels, demo.facts,
            progress=bar, **shown,
        ),
    )  # fmt: skip
    videos = [codec.decode(latents)[0] for latents in (plain, cached)]
    show(out, "", videos, ("without", "with"))
    has_map = any(e.weight is not None for e in trace.evaluations)
    if has_map:
        maps = frames_of(render(trace, "motion"), 1)
        contact_sheet(maps).save(out / "motion_map.png")
        overlay = render(trace, "motion", images=videos[0], opacity=0.5)
        save_animation(frames_of(overlay, 4), out / "motion_map.webp")
    else:
        print("No motion map was made: the run never reached the motion phase.")
    return finish(demo, out, "", trace, videos, (plain_seconds, cached_seconds))


def forcing(demo: Demo, out: Path) -> str:
    """Chunks one behind the other: bidirectional, block-causal, block-causal with MotionCache.

    Returns the report.
    """
    clip, noise = demo.inputs(FORCING_FRAMES)
    never = MotionCacheSettings(reuse_threshold=0.0)
    videos, seconds, trace = [], [], None
    for label, attention, settings in (
        ("bidirectional      ", "bidirectional", never),
        ("block-causal       ", "block_causal", never),
        ("with MotionCache   ", "block_causal", demo.settings),
    ):
        options = ForcingOptions(**FORCING, attention=attention)
        (latents, trace), took = timed(
            label,
            lambda bar, options=options, settings=settings: cached_forcing_sample(
                demo.model, *clip.text, noise, demo.facts.sigmas, options, settings, kernels,
                demo.facts, conditions=clip.conditions, progress=bar,
            ),
        )  # fmt: skip
        videos.append(codec.decode(latents)[0])
        seconds.append(took)
    show(out, "forcing_", videos, ("bidirectional", "without", "with"))
    told = finish(demo, out, "forcing_", trace, videos[1:], tuple(seconds[1:]))
    words = (
        f"  {'attention':16} block-causal without reuse takes {seconds[1] / seconds[0]:.1%} of the "
        "bidirectional time, and draws its own video, not the same"
    )
    print(words)
    return f"{told}\n{words}"


def show(out: Path, prefix: str, videos: list[torch.Tensor], names: tuple[str, ...]) -> None:
    """The videos, and all of them beside five times the difference of the last two."""
    error = ((videos[-2] - videos[-1]).abs() * 5).clamp(0, 1)
    save_animation(
        beside([frames_of(v, 4) for v in (*videos, error)]), out / f"{prefix}side_by_side.webp"
    )
    for name, video in zip(names, videos, strict=True):
        save_animation(frames_of(video, 4), out / f"{prefix}{name}.webp")
        contact_sheet(frames_of(video, 2)).save(out / f"{prefix}{name}.png")


def finish(
    demo: Demo,
    out: Path,
    prefix: str,
    trace: Trace,
    videos: list[torch.Tensor],
    seconds: tuple[float, ...],
) -> str:
    """Report and timeline, as files and on the screen; returns the words."""
    psnr, ssim = similarity(*videos)
    report = summary(trace)
    report["demo"] = {
        "scene": demo.args.scene,
        "steps": demo.args.steps,
        "seed": demo.args.seed,
        "preset": demo.args.preset or "the demo's settings",
        "seconds_without": round(seconds[0], 3),
        "seconds_with": round(seconds[1], 3),
        "wall_clock_ratio": round(seconds[0] / seconds[1], 3),
        "psnr_db": round(psnr, 3),
        "ssim": round(ssim, 5),
    }
    path = out / f"{prefix}report.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    contact_sheet(frames_of(timeline(trace), 1)).save(out / f"{prefix}timeline.png")
    lines = [text(trace), ""]
    totals = report["totals"]
    for name, value in (
        ("evaluations", f"{totals['dense']} dense, {totals['partial']} partial, "
                        f"{totals['reuse']} reused"),
        ("tokens computed", f"{compute_share(trace):.1%} of the same run's without reuse"),
        ("wall clock", f"{seconds[0]:.2f} s -> {seconds[1]:.2f} s, "
                       f"{seconds[0] / seconds[1]:.2f}x"),
        ("PSNR / SSIM", f"{psnr:.2f} dB / {ssim:.4f} against the run without reuse"),
    ):  # fmt: skip
        lines.append(f"  {name:16} {value}")
    words = "\n".join(lines)
    print(f"\n{words}")
    return words


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

    demo = Demo(args)
    title = f"Scene: {scenes.describe(demo.scene)}; {args.steps} steps, seed {args.seed}"
    print(f"Five short runs of the model that ships with the pack.\n{title}\n{checkpoint.LIMITS}")
    # the first evaluations of a process are slower; no run should pay for them
    clip, noise = demo.inputs(args.frames)
    few = SampleOptions(steps=2, shift=checkpoint.SHIFT)
    sample(demo.model, *clip.text, noise, few, conditions=clip.conditions)
    print("\nOrdinary sampling")
    plain = ordinary(demo, args.out)
    chunk, delay = FORCING["chunk_frames"], FORCING["chunk_delay"]
    print(
        f"\nDiffusion forcing: {FORCING_FRAMES} frames, {chunk} a chunk, each {delay} steps later"
    )
    chunked = forcing(demo, args.out)
    shown = page.write(args.out, title, checkpoint.LIMITS, (plain, chunked))
    print(f"\nOpen {shown} in a browser to see the videos, the motion map and the timelines.")


if __name__ == "__main__":
    main()
