"""Rival node packs beside MotionCache: the same clips, Euler, two prompts, equal evaluations.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/rivals/run.py --rivals DIR [--out FILE]

DIR holds one checkout a folder, each under the name of its repository: ComfyUI-TaylorSeer
(philipy1219), ComfyUI-Spectrum-WAN-Proper (xmarre), ComfyUI-MagCache (Zehong-Ma), ComfyUI-TeaCache
(welltop-cn), ComfyUI-CacheDiT (Jasonzzt). What is not there is left out, and the table says so.
Their licences are their own; nothing of theirs is copied from there.

A number is the PSNR of the decoded video to the uncached run's in the same process. Evaluations are
counted at the network's blocks. A contestant has no number for a model where its code, told to
reuse nothing, does not make the uncached video bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS, environment, save
from rivals.clips import HostClip, clip, models
from rivals.contestants import OURS, TAYLOR, Contestant, contestants
from rivals.counting import Rows
from rivals.host import RivalHost, Sampled, decibels
from rivals.packs import Loaded, NotLoadedError, brief
from rivals.table import Run, ahead, at, model_table, promising, remarks, told

# no setting of ours was chosen on clips with these seeds
FRAMES, SEED = 5, 900
FEWER = "fewer steps, no cache"


class Model:
    """A model's clips, their uncached runs, and what contestants make of them."""

    def __init__(self, host: RivalHost, clips: Sequence[HostClip], wanted: Sequence[int]) -> None:
        self.host, self.clips, self.wanted = host, clips, wanted
        self.uncached = [host.plain(c) for c in clips]
        self.steps = len(clips[0].sigmas) - 1
        again = host.plain(clips[0])
        if not torch.equal(again.latents, self.uncached[0].latents):
            sys.exit("the uncached run is not the same twice, so that nothing can be compared")

    def measure(self, one: Contestant, loaded: Loaded) -> dict[str, Any]:
        """Everything that a result file holds of a contestant on this model."""
        image = self.clips[0].from_image
        try:
            why = self.gate(one, loaded)
            if why is not None:
                return {"why": why}
            settings = list(one.settings(image))
            found = self.runs(one, loaded, settings)
        except Exception as error:
            return {"why": brief(error)}
        counted = [at(found, n) for n in self.wanted]
        entry: dict[str, Any] = {
            "tried": len(settings),
            "at": {
                str(n): told(runs, settings) for n, runs in zip(self.wanted, counted, strict=True)
            },
        }
        if not torch.equal(self.host.plain(self.clips[0]).latents, self.uncached[0].latents):
            entry["after"] = "leaves the process such that an uncached run is another one"
        return entry

    def gate(self, one: Contestant, loaded: Loaded) -> str | None:
        """Why its numbers would mean nothing; None if they do."""
        first, reference = self.clips[0], self.uncached[0]
        off = self._with(one, loaded, one.switched_off(first.from_image), 0)
        if off.rows != reference.rows:
            return f"told to reuse nothing it makes {self._count(off.rows, 0):g} evaluations"
        if not torch.equal(off.latents, reference.latents):
            return (
                "told to reuse nothing it does not make the uncached video "
                f"({decibels(reference, off):.1f} dB)"
            )
        return None

    def runs(self, one: Contestant, loaded: Loaded, settings: Sequence[Any]) -> list[list[Run]]:
        """Runs of each clip: on the first one all settings that have the wanted counts, on the
        others the best of these."""
        numbers = list(range(len(settings)))
        if one.scheduled:
            numbers = self.worth_a_run(one, loaded, settings)
        found: list[list[Run]] = []
        for i in range(len(self.clips)):
            found.append([])
            for number in numbers:
                run = self._with(one, loaded, settings[number], i)
                psnr = decibels(self.uncached[i], run)
                found[-1].append(Run(number, self._count(run.rows, i), psnr))
            if i == 0:
                beside = 0 if one.scheduled else 1
                numbers = promising(found[0], self.wanted, one.kept, beside)
        return found

    def worth_a_run(self, one: Contestant, loaded: Loaded, settings: Sequence[Any]) -> list[int]:
        """Numbers of the settings that compute as many evaluations as are wanted, or the next
        possible number, one for each choice of evaluations.

        Runs of one frame in which blocks do nothing tell what is computed.
        """
        short, plans = self.clips[0].first_frame(), {}
        for knobs in settings:
            schedule = _without(knobs, one.free)
            if schedule not in plans:
                made = one.put(loaded, self.host.model(short), knobs)
                plans[schedule] = self.host.sample(made, short, dry=True).steps
        each = self.uncached[0].rows / self.steps / self.clips[0].noise.shape[2]
        plan = [plans[_without(knobs, one.free)] for knobs in settings]
        counts = [Rows(steps[-1]).evaluations(each) for steps in plan]
        least = {min((c for c in counts if c >= n), default=None) for n in self.wanted}
        different = {}
        for number, knobs in enumerate(settings):
            if counts[number] in least:
                key = (plan[number], tuple(knobs[name] for name in one.free))
                different.setdefault(key, number)
        return list(different.values())

    def fewer_steps(self, shortened: Sequence[Sequence[HostClip]]) -> dict[str, Any]:
        """What a user could do instead: runs of fewer steps.

        Args:
            shortened: for each wanted count the clips with so many steps.
        """
        rows = {}
        for n, clips in zip(self.wanted, shortened, strict=True):
            found = [self.host.plain(c) for c in clips]
            rows[str(n)] = told(
                [
                    Run(0, self._count(run.rows, i), decibels(self.uncached[i], run))
                    for i, run in enumerate(found)
                ],
                [{"steps": n}],
            )
        return {"tried": len(rows), "at": rows}

    def _with(self, one: Contestant, loaded: Loaded, settings: Any, index: int) -> Sampled:
        made = self.clips[index]
        return self.host.sample(one.put(loaded, self.host.model(made), settings), made)

    def _count(self, rows: int, index: int) -> float:
        return Rows(rows).evaluations(self.uncached[index].rows / self.steps)


def measured(host: RivalHost, name: str, args: argparse.Namespace, known: Any) -> dict[str, Any]:
    """A model's part of the result file.

    Args:
        known: contestants with what was loaded of them, or why nothing was.
    """

    def clips(steps: int) -> list[HostClip]:
        return [clip(name, seed, steps, args.frames) for seed in seeds(args)]

    model = Model(host, clips(args.steps), args.evaluations)
    found: dict[str, Any] = {}
    for one, loaded in known:
        if not isinstance(loaded, Loaded):
            found[one.name] = {"why": f"not loaded: {loaded}"}
        else:
            found[one.name] = model.measure(one, loaded)
        said = found[one.name]
        print(f"{name}, {one.name}: {said.get('why') or _means(said)}", flush=True)
    found[FEWER] = model.fewer_steps([clips(n) for n in args.evaluations])
    print(f"{name}, {FEWER}: {_means(found[FEWER])}", flush=True)
    ours = found[OURS].get("at", {})
    theirs = found[TAYLOR].get("at", {}) if TAYLOR in found else {}
    counts = [str(n) for n in args.evaluations]
    return {
        "commit": environment()["commit"],
        "contestants": found,
        "ahead": {f"ours - {TAYLOR}": {n: ahead(ours.get(n), theirs.get(n)) for n in counts}},
    }


def _without(settings: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(value for name, value in settings.items() if name not in names)


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
    for name in data["models"]:
        print("\n" + model_table(data, name))
    print("\n" + "\n".join(remarks(data)))


if __name__ == "__main__":
    main()
