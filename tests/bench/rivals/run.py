"""Rival node packs beside MotionCache: the same clips, Euler, two prompts, equal evaluations.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/rivals/run.py --rivals DIR [--out FILE]

DIR holds one checkout a folder, each under the name of its repository: ComfyUI-TaylorSeer
(philipy1219), ComfyUI-Spectrum-WAN-Proper (xmarre), ComfyUI-MagCache (Zehong-Ma), ComfyUI-TeaCache
(welltop-cn), ComfyUI-CacheDiT (Jasonzzt). What is not there is left out, and the table says so.
Their licences are their own; nothing of theirs is copied from there.

A number is the PSNR of the decoded video to the uncached run's in the same process. Evaluations are
counted at the network's blocks. A contestant has no number for a model where its code, told to
reuse nothing, does not make the uncached video bit for bit. Finished runs are kept in `--store`, a
line each, and not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS, ROOT, environment, save
from rivals.clips import HostClip, clip, models
from rivals.contestants import OURS, TAYLOR, Contestant, contestants
from rivals.host import RivalHost
from rivals.measure import FEWER, Model
from rivals.packs import Loaded, NotLoadedError
from rivals.table import ahead, page
from run_store import Store

# no setting of ours was chosen on clips with these seeds
FRAMES, SEED = 5, 900


def measured(host: RivalHost, name: str, args: argparse.Namespace, known: Any) -> dict[str, Any]:
    """A model's part of the result file.

    Args:
        known: contestants with what was loaded of them, or why nothing was.
    """

    def made(index: int, steps: int) -> HostClip:
        return clip(name, args.seed + index, steps, args.frames)

    weights = hashlib.sha256(made(0, args.steps).weights.read_bytes()).hexdigest()[:12]
    about = f"{name} {weights} {args.steps} {args.frames} {args.seed} {host.version}"
    store = Store(args.store)
    model = Model(host, made, args.clips, args.steps, args.evaluations, store, about)
    found: dict[str, Any] = {}
    for one, loaded in known:
        if not isinstance(loaded, Loaded):
            found[one.name] = {"why": f"not loaded: {loaded}"}
        else:
            found[one.name] = model.measure(one, loaded)
        said = found[one.name]
        print(f"{name}, {one.name}: {said.get('why') or _means(said)}", flush=True)
    found[FEWER] = model.fewer_steps()
    print(f"{name}, {FEWER}: {_means(found[FEWER])}", flush=True)
    ours, theirs = (found.get(n, {}).get("at", {}) for n in (OURS, TAYLOR))
    counts = [str(n) for n in args.evaluations]
    return {
        "commit": environment()["commit"],
        "weights": weights,
        "contestants": found,
        "ahead": {f"ours - {TAYLOR}": {n: ahead(ours.get(n), theirs.get(n)) for n in counts}},
    }


def _means(entry: dict[str, Any]) -> str:
    return ", ".join(
        f"{n}: {'-' if f is None else format(f['mean']['mean'], '.1f')}"
        for n, f in entry["at"].items()
    )


def seeds(args: argparse.Namespace) -> list[int]:
    """Of the clips."""
    return list(range(args.seed, args.seed + args.clips))


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
    parser.add_argument("--out", type=Path, default=RESULTS / "rivals.json")
    parser.add_argument(
        "--store", type=Path, default=ROOT / "out" / "rivals.jsonl", help="finished runs"
    )
    parser.add_argument("--add", action="store_true", help="keep the file's other models")
    args = parser.parse_args()
    if not args.rivals.is_dir():
        parser.error(f"--rivals: there is no folder {args.rivals}")
    if not all(1 < n <= args.steps for n in args.evaluations):
        parser.error(f"--evaluations: of {args.steps} steps 2 to {args.steps} can be computed")
    return args


def main() -> None:
    args = arguments()
    host = RivalHost()
    data: dict[str, Any] = {
        "command": "COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/rivals/run.py "
        f"--rivals <folder> --clips {args.clips} --seed {args.seed} --frames {args.frames} "
        f"--steps {args.steps} --evaluations {','.join(map(str, args.evaluations))}",
        "environment": environment(),
        "comfyui": host.version,
        "sampler": "euler",
        "steps": args.steps,
        "frames": args.frames,
        "seeds": seeds(args),
        "evaluations": args.evaluations,
        "loaded": {},
        "models": {},
    }
    if args.add and args.out.exists():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        if any(before[k] != data[k] for k in ("command", "comfyui")):
            sys.exit(f"{args.out} is of another run or another ComfyUI; leave --add out")
        data["models"] = before["models"]
    known: list[tuple[Contestant, Loaded | NotLoadedError]] = []
    for one in contestants(args.steps, args.evaluations):
        if args.only and not any(word in one.name for word in args.only):
            continue
        try:
            loaded: Loaded | NotLoadedError = one.load(args.rivals)
        except NotLoadedError as error:
            loaded = error
        known.append((one, loaded))
        ready = isinstance(loaded, Loaded)
        data["loaded"][one.name] = {
            "pack": one.pack,
            "how": loaded.how if ready else f"not loaded: {loaded}",
            "version": loaded.version if ready else "unknown",
        }
        print(f"{one.name}: {data['loaded'][one.name]['how']}", flush=True)
    with torch.inference_mode():
        for name in args.models:
            data["models"][name] = measured(host, name, args, known)
            save(args.out, data)
    print("\n" + page(data))


if __name__ == "__main__":
    main()
