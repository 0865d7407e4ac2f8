"""Rival node packs beside MotionCache: the same clips, Euler, two prompts, equal evaluations.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/rivals/run.py --rivals DIR [--out FILE]

DIR holds one checkout a folder, each under the name of its repository: ComfyUI-TaylorSeer
(philipy1219), ComfyUI-Spectrum-WAN-Proper (xmarre), ComfyUI-MagCache (Zehong-Ma), ComfyUI-TeaCache
(welltop-cn), ComfyUI-CacheDiT (Jasonzzt). What is not there is left out, and the table says so.
Their licences are their own; nothing of theirs is copied from there.

A number is the PSNR of the decoded video to the uncached run's in the same process. Evaluations are
counted at the network's blocks. A contestant has no number for a model where its code, told to
reuse nothing, does not make the uncached video bit for bit. Finished runs are kept in `--store`, a
line each, and not made again. Several commands may fill one file: each replaces what it measures.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS, ROOT, environment
from rivals.clips import HostClip, clip, models
from rivals.contestants import OURS, Contestant, contestants
from rivals.host import RivalHost
from rivals.measure import FEWER, Model
from rivals.packs import Loaded, NotLoadedError
from rivals.results import Results
from rivals.table import page
from run_store import Store

# no setting of ours was chosen on clips with these seeds
FRAMES, SEED = 5, 900


def measured(
    host: RivalHost, name: str, args: argparse.Namespace, known: Any, results: Results
) -> None:
    """Adds a model's figures.

    Args:
        known: contestants with what was loaded of them, or why nothing was.
    """

    def made(index: int, steps: int) -> HostClip:
        return clip(name, args.seed + index, steps, args.frames)

    weights = hashlib.sha256(made(0, args.steps).weights.read_bytes()).hexdigest()[:12]
    about = f"{name} {weights} {args.steps} {args.frames} {args.seed} {host.version}"
    store = Store(args.store)
    model = Model(host, made, args.clips, args.steps, args.evaluations, store, about)
    results.model(name, weights, model.fingerprint())
    for one, loaded in known:
        if isinstance(loaded, Loaded):
            entry, how, version = model.measure(one, loaded), loaded.how, loaded.version
        else:
            how, version = f"not loaded: {loaded}", "unknown"
            entry = {"why": how}
        results.put(name, one.name, entry, pack=one.pack, how=how, version=version)
        results.save()
        print(f"{name}, {one.name}: {entry.get('why') or _means(entry)}", flush=True)
    if any(one.name == OURS for one, _ in known):
        # the yardstick goes with ours
        entry = model.fewer_steps()
        results.put(name, FEWER, entry)
        results.save()
        print(f"{name}, {FEWER}: {_means(entry)}", flush=True)


def _means(entry: dict[str, Any]) -> str:
    return ", ".join(
        f"{n}: {'-' if f is None else format(f['mean']['mean'], '.1f')}"
        for n, f in entry["at"].items()
    )


def command(args: argparse.Namespace) -> str:
    """The command that has the same figures again."""
    return (
        "COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/rivals/run.py "
        f"--rivals <folder> --models {' '.join(args.models)} --clips {args.clips} "
        f"--seed {args.seed} --frames {args.frames} --steps {args.steps} "
        f"--evaluations {','.join(map(str, args.evaluations))}"
        + (f" --only {' '.join(args.only)}" if args.only else "")
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", type=Path, required=True, help="folder of the checkouts")
    parser.add_argument("--models", nargs="+", choices=models(), default=models())
    parser.add_argument("--only", nargs="+", help="contestants with one of these words in the name")
    parser.add_argument("--clips", type=int, default=6, help="fewer than 6 give no interval")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first clip")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument(
        "--evaluations", type=lambda text: [int(n) for n in text.split(",")], default=[7, 8, 10, 12]
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "rivals.json",
        help="what it has of other models and contestants stays",
    )
    parser.add_argument(
        "--store", type=Path, default=ROOT / "out" / "rivals.jsonl", help="finished runs"
    )
    args = parser.parse_args()
    if not args.rivals.is_dir():
        parser.error(f"--rivals: there is no folder {args.rivals}")
    if not all(1 < n <= args.steps for n in args.evaluations):
        parser.error(f"--evaluations: of {args.steps} steps 2 to {args.steps} can be computed")
    return args


def main() -> None:
    args = arguments()
    host, env = RivalHost(), environment()
    about = {"comfyui": host.version, "sampler": "euler", "device": env["device"]}
    about |= {"torch": env["torch"], **{n: getattr(args, n) for n in ("steps", "frames", "seed")}}
    results = Results(args.out, about, command(args), str(env["commit"]))
    known: list[tuple[Contestant, Loaded | NotLoadedError]] = []
    for one in contestants(args.steps, args.evaluations):
        if args.only and not any(word in one.name for word in args.only):
            continue
        try:
            loaded: Loaded | NotLoadedError = one.load(args.rivals)
        except NotLoadedError as error:
            loaded = error
        known.append((one, loaded))
        how = loaded.how if isinstance(loaded, Loaded) else f"not loaded: {loaded}"
        print(f"{one.name}: {how}", flush=True)
    # some packs collect garbage after every run, and need not go through a whole ComfyUI
    gc.freeze()
    with torch.inference_mode():
        for name in args.models:
            measured(host, name, args, known, results)
    print("\n" + page(results.data))


if __name__ == "__main__":
    main()
