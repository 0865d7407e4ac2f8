"""ComfyUI's own caches and MotionCache on one small model, in one process: what each withstands.

COMFYUI_PATH=<checkout> <ComfyUI's python> tests/bench/side_by_side/run.py [--json FILE]

The network has random weights, so errors compare the columns and say nothing of real videos.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS, environment, save
from side_by_side.caches import CACHES, Bench, Cell, Subject
from torch import Tensor

# error to the uncached run that a case may have, of what the same cache has in the plain run
_ROOM = 3.0
# batches of one and of two differ in the last bits
_ROUNDING = 1e-4


def plain(bench: Bench, subject: Subject) -> Cell:
    """A run, and what of it was computed."""
    out, share = subject.sample(subject.model())
    if subject.settings and share == 1:
        return Cell("inert", "nothing was reused")
    error = bench.error(out)
    said = f"{share:.0%} computed, error {error:.1%}"
    return Cell("passes", said, {"share": share, "error": error})


def threshold_zero(bench: Bench, subject: Subject) -> Cell:
    """Never reusing is the uncached run."""
    return same(subject.sample(subject.model(reuse_threshold=0.0))[0], bench.plain, "bit-identical")


def bypass(bench: Bench, subject: Subject) -> Cell:
    """The model that went into the node still makes the uncached video, also after a run."""
    base = bench.base()
    subject.sample(subject.put(base))
    return same(bench.sample(base), bench.plain, "bit-identical")


def own_input(bench: Bench, subject: Subject) -> Cell:
    """The tensor that the sampler hands over in 32 bits is as it was."""
    model = subject.model(guarded=False)
    written = bench.writes_into_input(model)
    if written:
        return Cell("differs", f"written to in {written} evaluations", {"written": written})
    return Cell("passes", "left alone", {"written": 0})


def windows(bench: Bench, subject: Subject) -> Cell:
    """Static context windows: close to the uncached run with the same windows."""
    wanted = bench.sample(bench.windowed(bench.base()), frames=9)
    got, share = subject.sample(bench.windowed(subject.model()), frames=9)
    return bounded(bench, subject, got, wanted, share)


def batch_of_two(bench: Bench, subject: Subject) -> Cell:
    """Two videos at once: close to the same two uncached."""
    wanted = bench.sample(bench.base(), batch=2)
    got, share = subject.sample(subject.model(), batch=2)
    return bounded(bench, subject, got, wanted, share)


def size_change(bench: Bench, subject: Subject) -> Cell:
    """Another size on the same patched model, and back: as with a model patched afresh."""
    wanted = [subject.sample(subject.model(), frames=f)[0] for f in (3, 5)]
    model = subject.model()
    got = [subject.sample(model, frames=f)[0] for f in (3, 5, 3)]
    alike = all(torch.equal(a, b) for a, b in zip(got, [*wanted, wanted[0]], strict=True))
    return same_if(alike, "each as freshly patched")


def interrupt(bench: Bench, subject: Subject) -> Cell:
    """Interrupted in the middle and run again: as with a model patched afresh."""
    wanted, _ = subject.sample(subject.model())
    model = subject.model()
    bench.interrupted(model)
    return same(subject.sample(model)[0], wanted, "next run as freshly patched")


def split_cfg(bench: Bench, subject: Subject) -> Cell:
    """One call of the network for each prompt: what one batch of two makes."""
    wanted, _ = subject.sample(subject.model())
    with bench.one_by_one():
        got, _ = subject.sample(subject.model())
    return close(bench, got, wanted)


def split_in_mid_run(bench: Bench, subject: Subject) -> Cell:
    """From one batch of two to two of one, half-way through the calls of the network."""
    with bench.one_by_one(after=bench.steps) as seen:
        wanted = bench.sample(subject.model())
    half = seen.asked // 4
    with bench.one_by_one(after=half) as seen:
        got = bench.sample(subject.model())
    if not 0 < half == seen.joint < seen.asked - half:
        sys.exit("this ComfyUI batches prompts in another way than the bench expects")
    return close(bench, got, wanted)


def told(bench: Bench, subject: Subject) -> Cell:
    """What was reused is told, and is what was counted at the network."""
    share, said, where = subject.told()
    if said is None:
        return Cell("inert", "nothing is told")
    if abs(said - share) > 0.005:
        return Cell("differs", f"{where}: {said:.0%}, counted {share:.0%}")
    return Cell("passes", where, {"said": said, "counted": share})


CASES: dict[str, Callable[[Bench, Subject], Cell]] = {
    "plain run": plain,
    "threshold 0 is no cache": threshold_zero,
    "the model before the node is untouched": bypass,
    "the sampler's tensor (32 bits) is untouched": own_input,
    "context windows (static)": windows,
    "two videos in a batch": batch_of_two,
    "another size on the same model": size_change,
    "interrupted, then run again": interrupt,
    "prompts one by one": split_cfg,
    "one by one from the middle on": split_in_mid_run,
    "what was reused is told": told,
}


def same(got: Tensor, wanted: Tensor, said: str) -> Cell:
    return same_if(torch.equal(got, wanted), said)


def same_if(alike: bool, said: str) -> Cell:
    return Cell("passes", said) if alike else Cell("differs", f"not {said}")


def close(bench: Bench, got: Tensor, wanted: Tensor) -> Cell:
    error = bench.error(got, wanted)
    if error <= _ROUNDING:
        return Cell("passes", "as in one batch of two", {"error": error})
    return Cell("differs", f"{error:.1%} from one batch of two", {"error": error})


def bounded(bench: Bench, subject: Subject, got: Tensor, wanted: Tensor, share: float) -> Cell:
    """Whether a run is about as close to the uncached one as the plain run is."""
    if subject.settings and share == 1:
        alike = torch.equal(got, wanted)
        return Cell("inert" if alike else "differs", "nothing was reused")
    error, usual = bench.error(got, wanted), subject.usual_error
    fine = bool(torch.isfinite(got).all()) and error <= _ROOM * usual
    said = f"{share:.0%} computed, error {error:.1%}"
    return Cell("passes" if fine else "differs", said, {"share": share, "error": error})


def measured(bench: Bench, subject: Subject, case: Callable[[Bench, Subject], Cell]) -> Cell:
    """The cell of one case; whatever is raised is what this bench is here to find."""
    try:
        return case(bench, subject)
    except Exception as error:
        return Cell("crashes", f"{type(error).__name__}: {error}".splitlines()[0][:120])


def main() -> None:
    parser = argparse.ArgumentParser(description="Caches side by side in ComfyUI.")
    parser.add_argument("--json", type=Path, default=RESULTS / "side_by_side.json")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--add", action="store_true", help="keep the file's other cases")
    args = parser.parse_args()
    if not os.environ.get("COMFYUI_PATH"):
        sys.exit("COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout")
    bench = Bench(os.environ["COMFYUI_PATH"])
    cells: dict[str, dict[str, Any]] = {case: {} for case in args.case}
    subjects = [make(bench) for make in CACHES]
    for subject in subjects:
        for case in args.case:
            cell = measured(bench, subject, CASES[case])
            cells[case][subject.name] = asdict(cell)
            print(f"{subject.name}, {case}: {cell.verdict} ({cell.said})", flush=True)
    here, version = environment(), importlib.import_module("comfyui_version").__version__
    commits = dict.fromkeys(args.case, here["commit"])
    if args.add:
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if (before["comfyui"], before["steps"]) != (version, bench.steps):
            sys.exit(f"{args.json} is of another ComfyUI or another run; leave --add out")
        cells = {case: cells.get(case) or before["cells"][case] for case in CASES}
        commits = {case: commits.get(case) or before["commits"][case] for case in CASES}
    data = {
        "environment": here,
        "commits": commits,
        "comfyui": version,
        "steps": bench.steps,
        "caches": {s.name: s.settings for s in subjects},
        "room": _ROOM,
        "cells": cells,
    }
    save(args.json, data)


if __name__ == "__main__":
    main()
