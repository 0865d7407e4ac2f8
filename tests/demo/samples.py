"""A sheet of samples of demo weights: each clip as rendered, then as each sampler draws it.

    python tests/demo/samples.py --weights runs/demo/ema.safetensors --out sheet.png

Clips are random and differ from any the model was trained on. `--control` says in which frames
the control video is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from pictures import contact_sheet, frames_of
from PIL import Image
from run import load_pack
from safetensors.torch import load_file

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings  # noqa: E402
from motioncache_pack.motioncache_core.demo import codec, conditions, scenes  # noqa: E402
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample  # noqa: E402
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, sample  # noqa: E402
from motioncache_pack.motioncache_core.demo.training import batches  # noqa: E402
from motioncache_pack.motioncache_core.demo.wan import DemoWan  # noqa: E402

MODES = ("ordinary", "bidirectional", "block_causal")


def shown(control: str, frames: int) -> torch.Tensor:
    """Bool `(F,)` of the frames that show the control video."""
    every = torch.arange(frames)
    return {
        "all": every >= 0,
        "some": every % 3 == 2,
        "last": every == frames - 1,
        "none": every < 0,
    }[control]


def clip(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """A scene, its rendered video, and what the model is told and starts from."""
    rng = torch.Generator().manual_seed(1_000_000 + seed)
    scene = batches.draw_scene(args.frames, rng)
    take = scenes.draw_take(scene, rng)
    video = scenes.render(scene, take, args.frames)
    given = conditions.condition(codec.encode(video[None])[0, :, 0], args.frames)
    bare = given.clone()
    conditions.add_control(given, scene, take, shown(args.control, args.frames))
    noise = torch.randn(1, codec.CHANNELS, *given.shape[1:], generator=rng)
    return {"scene": scene, "video": video, "given": given[None], "bare": bare, "noise": noise}


def draw(model: DemoWan, mode: str, it: dict[str, Any], args: argparse.Namespace) -> torch.Tensor:
    """The clip `(F, H, W, 3)` as the model draws it."""
    width = model.text_embedding[0].in_features
    text = [scenes.text_states(s)[None, :, :width] for s in (it["scene"], None)]
    options = SampleOptions(steps=args.steps, cfg=args.cfg)
    if mode == "ordinary":
        latents = sample(model, *text, it["noise"], options, conditions=it["given"])
    else:
        forcing = ForcingOptions(
            chunk_frames=3, chunk_delay=args.delay, solver=args.solver, attention=mode
        )
        never = MotionCacheSettings(reuse_threshold=0.0)
        latents, _ = cached_forcing_sample(
            model, *text, it["noise"], options.sigmas(), forcing, never, kernels,
            cfg=args.cfg, conditions=it["given"],
        )  # fmt: skip
    return codec.decode(latents)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/samples.png"))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--control", choices=("all", "some", "last", "none"), default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=1.5)
    parser.add_argument("--delay", type=int, default=6)
    parser.add_argument("--solver", default="euler")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = DemoWan.from_state_dict({k: v.float() for k, v in load_file(args.weights).items()})
    model.eval()
    rows = []
    for seed in range(args.seed, args.seed + args.clips):
        it = clip(seed, args)
        print(f"{seed}: {scenes.describe(it['scene'])}")
        videos = [it["video"]]
        for mode in args.modes:
            videos.append(draw(model, mode, it, args))
            error = (videos[-1] - videos[0]).square().mean((1, 2, 3))
            print(f"   {mode:14} dB to the rendered clip:", (-10 * error.log10()).round().tolist())
        rows += [contact_sheet(frames_of(video, 2)) for video in videos]
    sheet = Image.new("RGB", (rows[0].width, sum(r.height + 4 for r in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * (row.height + 4)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out)


if __name__ == "__main__":
    main()
