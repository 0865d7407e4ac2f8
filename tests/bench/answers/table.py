"""From finished runs to `results/answers.json`: means over clips, and differences clip by clip."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import common
from quality.stats import bootstrap, paired
from quality.text_clips import MODELS as TEXT
from run_store import Store

CHOSEN_ON = ("tracks", "text")
FEWER, OURS, PLANNED = "fewer steps", "ours", "as planned"

# figure of each clip by (model, what)
Found = dict[tuple[str, str], dict[int, dict[str, Any]]]


def write(store: Store, path: Path) -> None:
    """What the store has, as a result file; of models that it has not, the file keeps its own."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    fresh = {key.split("|")[1] for key in store.records}
    environments = old.get("environments", {}) | dict.fromkeys(sorted(fresh), common.environment())
    data = {
        "environments": dict(sorted(environments.items())),
        "commands": [
            f"python tests/bench/answers/run.py {part}"
            for part in ("budgets", "counts", "samplers", "every", "table")
        ],
        "chosen_on": list(CHOSEN_ON),
        "shift": {name: model.shift for name, model in TEXT.items()},
        "budgets": _beside(old.get("budgets", {}), budgets(found(store, "budgets"))),
        "counts": _beside(old.get("counts", {}), counts(found(store, "counts"))),
        "samplers": _beside(old.get("samplers", {}), samplers(found(store, "samplers"))),
        "every": every(found(store, "every")) or old.get("every", {}),
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _beside(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted({**old, **new}.items()))


def found(store: Store, part: str) -> Found:
    """The figures of one part's clips."""
    out: Found = defaultdict(dict)
    for key, record in store.records.items():
        mine, model, seed, what = key.split("|", 3)
        if mine == part:
            out[model, what][int(seed)] = record
    return out


def budgets(runs: Found) -> dict[str, Any]:
    """By model, steps and evaluations: every method's mean PSNR, and ours minus the others'."""
    out: dict[str, Any] = {}
    for (model, what), clips in sorted(runs.items()):
        steps, n, method = what.split("|")
        row = out.setdefault(model, {}).setdefault(f"{n} of {steps}", {"psnr": {}, "gain": {}})
        row["psnr"][method] = bootstrap(_values(clips, clips, "psnr"))
        if method != OURS:
            ours = runs[model, f"{steps}|{n}|{OURS}"]
            row["gain"][method] = _gain(ours, clips, "psnr")
    return out


def counts(runs: Found) -> dict[str, Any]:
    """By model: mean PSNR at each count, and what placing by the run is worth over all of them."""
    clips: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    for (model, what), figures in runs.items():
        _, n, method = what.split("|")
        clips[model][method][int(n)] = figures
    out: dict[str, Any] = {}
    for model, methods in sorted(clips.items()):
        told = {
            method: {n: _mean(figures, "psnr") for n, figures in sorted(by_count.items())}
            for method, by_count in methods.items()
        }
        whole = (_over_counts(methods[method]) for method in (OURS, PLANNED))
        out[model] = {"psnr": told, "gain": _gain(*whole, "psnr")}
    return out


def _over_counts(by_count: dict[int, dict[int, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    seeds = set.intersection(*(set(figures) for figures in by_count.values()))
    return {
        seed: {"psnr": fmean(figures[seed]["psnr"] for figures in by_count.values())}
        for seed in sorted(seeds)
    }


def samplers(runs: Found) -> dict[str, Any]:
    """By model, sampler and evaluations: to its own steps and to the limit of many."""
    out: dict[str, Any] = {}
    for (model, what), clips in sorted(runs.items()):
        sampler, steps, n, method = what.split("|")
        rows = out.setdefault(model, {}).setdefault(sampler, {})
        row = rows.setdefault(f"{n} of {steps}", {"psnr": {}, "limit": {}, "gain": {}})
        row["limit"][method] = _mean(clips, "limit")
        if method == "all steps":
            continue
        row["psnr"][method] = _mean(clips, "psnr")
        if method == FEWER:
            ours = runs[model, f"{sampler}|{steps}|{n}|{OURS}"]
            row["gain"] = {name: _gain(ours, clips, name) for name in ("psnr", "limit")}
    return out


def every(runs: Found) -> dict[str, Any]:
    """By sampler: share computed, and PSNR of each way on each model."""
    out: dict[str, Any] = {}
    for (model, what), clips in sorted(runs.items()):
        sampler, method = what.split("|")
        row = out.setdefault(sampler, {"psnr": {}})
        row["psnr"].setdefault(model, {})[method] = _mean(clips, "psnr")
        if method == OURS:
            row["share"] = _mean(clips, "share")
    return out


def _values(clips: dict[int, Any], order: dict[int, Any], name: str) -> list[float | None]:
    return [clips[seed][name] if seed in clips else None for seed in sorted(order)]


def _mean(clips: dict[int, Any], name: str) -> float | None:
    estimate = bootstrap(_values(clips, clips, name))
    return None if estimate is None else round(float(estimate["mean"] or 0), 2)


def _gain(ours: dict[int, Any], theirs: dict[int, Any], name: str) -> Any:
    return paired(_values(ours, theirs, name), _values(theirs, theirs, name))
