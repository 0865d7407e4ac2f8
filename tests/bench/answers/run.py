"""What foretelling whole evaluations costs the video, on small models inside ComfyUI.

    COMFYUI_PATH=... PYTHONPATH=tests/support/torch_shims python tests/bench/answers/run.py budgets
    ... run.py counts        every count of evaluations, placed by the run and by the schedule alone
    ... run.py samplers      the samplers that people use, to their own steps and to the limit
    ... run.py every         every sampler of the host
    ... run.py table         tests/bench/results/answers.json from all finished runs

Finished runs are kept in `--store`, a line each, and not made again. Settings are chosen on tracks
and text, and confirmed on the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import torch
from answers.clips import MODELS, clip, host
from answers.methods import FEWER, METHODS, OURS, Run, as_planned, cached, uncached
from quality.metrics import psnr
from run_store import Store
from torch import Tensor

BUDGETS = {24: (7, 8, 10, 12), 50: (15, 20)}
SAMPLER_BUDGETS = {20: (7, 8, 10), 24: (10,)}
SAMPLERS = ("euler", "dpmpp_2m", "res_multistep", "gradient_estimation", "uni_pc")
# the limit of many steps
LIMIT = ("dpmpp_2m", 150)
EVERY_STEPS, EVERY_BUDGET = 24, 0.4
COUNTS = {24: range(6, 15)}
FIRST_SEED = 700

Figures = dict[str, Any]


def budgets(name: str, seed: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Euler at several budgets, method by method."""
    shown = clip(name, seed)
    for steps, counts in BUDGETS.items():
        whole = _once(lambda steps=steps: uncached(shown, "euler", steps))
        for n in counts:

            def fewer(n: int = n, whole: Any = whole) -> Figures:
                return _figures(uncached(shown, "euler", n), whole().video)

            yield f"{steps}|{n}|{FEWER}", fewer
            for method, settings in METHODS.items():

                def run(
                    n: int = n, steps: int = steps, settings: Any = settings, whole: Any = whole
                ) -> Figures:
                    made = cached(shown, "euler", steps, settings, n / steps)
                    return _figures(made, whole().video)

                yield f"{steps}|{n}|{method}", run


def counts(name: str, seed: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Euler at every count of evaluations: which of them a count falls on is luck as well."""
    shown = clip(name, seed)
    for steps, wanted in COUNTS.items():
        whole = _once(lambda steps=steps: uncached(shown, "euler", steps))
        for n in wanted:

            def ours(n: int = n, steps: int = steps, whole: Any = whole) -> Figures:
                return _figures(cached(shown, "euler", steps, OURS, n / steps), whole().video)

            def planned(n: int = n, steps: int = steps, whole: Any = whole) -> Figures:
                with as_planned():
                    made = cached(shown, "euler", steps, OURS, n / steps)
                return _figures(made, whole().video)

            yield f"{steps}|{n}|ours", ours
            yield f"{steps}|{n}|as planned", planned


def samplers(name: str, seed: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Several samplers, each against its own uncached video and the limit of many steps."""
    shown = clip(name, seed)
    limit = _once(lambda: uncached(shown, *LIMIT))
    for sampler in SAMPLERS:
        for steps, counts in SAMPLER_BUDGETS.items():
            whole = _once(lambda s=sampler, n=steps: uncached(shown, s, n))

            def all_steps(whole: Any = whole) -> Figures:
                return {"limit": psnr(limit().video, whole().video)}

            yield f"{sampler}|{steps}|{steps}|all steps", all_steps
            for n in counts:

                def fewer(s: str = sampler, n: int = n, whole: Any = whole) -> Figures:
                    return _figures(uncached(shown, s, n), whole().video, limit().video)

                yield f"{sampler}|{steps}|{n}|{FEWER}", fewer
                for method in ("ours", "without hindsight", "held"):

                    def run(
                        s: str = sampler, n: int = n, steps: int = steps, method: str = method,
                        whole: Any = whole,
                    ) -> Figures:  # fmt: skip
                        made = cached(shown, s, steps, METHODS[method], n / steps)
                        return _figures(made, whole().video, limit().video)

                    yield f"{sampler}|{steps}|{n}|{method}", run


def every(name: str, seed: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Every sampler of the host: ours, holding, and fewer steps at equal cost."""
    shown = clip(name, seed)
    for sampler in host().samplers.SAMPLER_NAMES:
        if sampler == "dpm_adaptive" or sampler.endswith("_gpu"):
            # the one is computed in full, the others draw the same noise elsewhere
            continue
        whole = _once(lambda s=sampler: uncached(shown, s, EVERY_STEPS))

        def fewer(s: str = sampler, whole: Any = whole) -> Figures:
            per_step = whole().evaluations / EVERY_STEPS
            n = max(2, round(EVERY_BUDGET * whole().evaluations / per_step))
            return _figures(uncached(shown, s, n), whole().video)

        yield f"{sampler}|{FEWER}", fewer
        for method in ("ours", "held"):

            def run(s: str = sampler, method: str = method, whole: Any = whole) -> Figures:
                made = cached(shown, s, EVERY_STEPS, METHODS[method], EVERY_BUDGET)
                share = made.evaluations / whole().evaluations
                return {**_figures(made, whole().video), "share": share}

            yield f"{sampler}|{method}", run


PARTS = {"budgets": budgets, "counts": counts, "samplers": samplers, "every": every}


def _figures(run: Run, whole: Tensor, limit: Tensor | None = None) -> Figures:
    found: Figures = {"psnr": psnr(whole, run.video), "evaluations": run.evaluations}
    return found if limit is None else {**found, "limit": psnr(limit, run.video)}


def _once(make: Callable[[], Run]) -> Callable[[], Run]:
    made: list[Run] = []

    def get() -> Run:
        if not made:
            made.append(make())
        return made[0]

    return get


def gate(name: str) -> None:
    """Without reuse the node changes nothing, and the host repeats itself.

    Raises:
        SystemExit: else; no number may be printed.
    """
    shown = clip(name, FIRST_SEED)
    first = uncached(shown, "euler", 12).video
    again = uncached(shown, "euler", 12).video
    whole = cached(shown, "euler", 12, OURS, 1.0).video
    if not (torch.equal(first, again) and torch.equal(first, whole)):
        raise SystemExit(
            f"{name}: a run that computes everything differs from one without the node"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--store", type=Path, default=common.ROOT / "out" / "answers.jsonl")
    args = parser.parse_args()
    store = Store(args.store)
    if args.part == "table":
        # the table wants no host
        from answers.table import write

        write(store, common.RESULTS / "answers.json")
        return
    torch.set_num_threads(1)
    for name in args.models:
        gate(name)
        for seed in range(FIRST_SEED, FIRST_SEED + args.clips):
            for what, run in PARTS[args.part](name, seed):
                key = f"{args.part}|{name}|{seed}|{what}"
                if key not in store.records:
                    store.add({"key": key, **run()})
            print(f"{args.part} {name} {seed}", flush=True)


if __name__ == "__main__":
    main()
