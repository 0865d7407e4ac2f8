"""What the quality bench and its neighbours share: options, making missing runs, result files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS, environment, save
from motioncache_pack.motioncache_core.sampling.run_settings import FEW_STEPS
from quality.analysis import Sweep
from quality.cases import (
    FORCING,
    MODEL,
    MODELS,
    MODES,
    ORDINARY,
    STEPS,
    USUAL_STEPS,
    Case,
    case,
    model_hash,
)
from quality.policies import NONE, Job
from quality.report import NOTE
from quality.runs import Store, fingerprint, gate, outstanding, run_all

QUICK_SEEDS = 3
Grids = list[tuple[Case, dict[str, list[Job]]]]


def parser(what: str, seeds: dict[str, int], choose_modes: bool = True) -> argparse.ArgumentParser:
    """The options that these benches have.

    Args:
        seeds: clips of each mode, by model.
        choose_modes: with `--modes`.
    """
    given = argparse.ArgumentParser(description=what)
    given.add_argument("--out", type=Path, required=True, help="folder of runs, tables, curves")
    usual = ", ".join(f"{count} of model {model}" for model, count in seeds.items())
    given.add_argument(
        "--seeds", type=int, help=f"clips of each mode; {usual}, quick {QUICK_SEEDS}"
    )
    given.add_argument("--quick", action="store_true", help="few clips and thresholds")
    given.add_argument("--model", default="tracks", choices=list(MODELS))
    if choose_modes:
        given.add_argument("--modes", nargs="+", default=[ORDINARY, FORCING], choices=MODES)
    given.add_argument("--steps", type=int, default=USUAL_STEPS, help="of every run")
    given.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given.add_argument("--publish", action="store_true", help="write tests/bench/results as well")
    given.set_defaults(usual_seeds=seeds)
    return given


def parsed(given: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, checked."""
    args = given.parse_args()
    os.environ[MODEL], os.environ[STEPS] = args.model, str(args.steps)
    args.seeds = args.seeds or (QUICK_SEEDS if args.quick else args.usual_seeds[args.model])
    if args.steps <= FEW_STEPS:
        given.error(f"--steps is {args.steps}; nothing is reused at {FEW_STEPS} or fewer")
    if args.seeds < 1 or args.processes < 1:
        given.error(
            f"--seeds is {args.seeds}, --processes is {args.processes}; give 1 or more of each"
        )
    return args


def make(
    args: argparse.Namespace, modes: Iterable[str], grid: Callable[[Case], dict[str, list[Job]]]
) -> tuple[Grids, Store, dict[str, int]]:
    """The runs of every clip, those that are not made yet made; ends the program where a gate is
    red.

    Args:
        grid: the runs of a clip by policy, each a sweep; the first one is without reuse.
    """
    clips = [case(mode, seed) for mode in modes for seed in range(args.seeds)]
    grids = [(clip, grid(clip)) for clip in clips]
    store = Store(args.out / "runs.jsonl")
    work = list(outstanding(grids, store))
    if work:
        run_all(work, args.processes)
        store.read()
    red, checked = gate(grids, store)
    if red:
        sys.exit("the gate is red:\n" + "\n".join(red))
    return grids, store, checked


def sweeps(grids: Grids, store: Store, mode: str) -> dict[str, Sequence[Sweep]]:
    """Each policy's runs, clip by clip."""
    found: dict[str, list[Sweep]] = {}
    for clip, jobs in grids:
        if clip.mode != mode:
            continue
        for name, sweep in jobs.items():
            if name != NONE:
                runs = [store.records[job.key(clip, fingerprint())] for job in sweep]
                found.setdefault(name, []).append(runs)
    return dict(found)


def result_name(bench: str, args: argparse.Namespace) -> str:
    """Of a bench's files: with the model and the steps where they are not the usual ones."""
    model = "" if args.model == "tracks" else f"_{args.model}"
    return bench + model + ("" if args.steps == USUAL_STEPS else f"_{args.steps}_steps")


def write(
    name: str, title: str, args: argparse.Namespace, figures: dict[str, Any], tables: str,
    checked: dict[str, int], note: str = NOTE, under: str = "modes", brief: Any = None,
) -> None:  # fmt: skip
    """The result file, with the figures under that name, and the tables, which are printed as
    well.

    Args:
        brief: what is published in place of the figures.
    """
    result = {
        "bench": name,
        "model": args.model,
        "model_hash": model_hash(),
        "steps": args.steps,
        "seeds": args.seeds,
        "checked": checked,
        "environment": environment(),
    }
    save(args.out / f"{name}.json", result | {under: figures})
    if args.publish:
        save(RESULTS / f"{name}.json", result | {under: brief or figures})
    text = f"# {title}\n\n{note}\n\n{tables}\n"
    (args.out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
