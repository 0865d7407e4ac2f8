"""From the runs of a contestant to what is told of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quality.stats import bootstrap, paired
from quality.tables import cell, table

# how it is loaded, as a result file says it
THIS_PACK = "this pack"


@dataclass(frozen=True)
class Run:
    """One run of one clip.

    Attributes:
        setting: number of the settings that were tried.
        evaluations: of the network, as counted.
        psnr: to the uncached video.
    """

    setting: int
    evaluations: float
    psnr: float


def at(runs: Sequence[Sequence[Run]], wanted: float) -> list[Run | None]:
    """For each clip the run with the fewest evaluations that are not below what is wanted; of
    several, that with the settings that ran on the most clips and have the best mean there, which
    is to the contestant's favour.

    Args:
        runs: of each clip.
    """
    quality: dict[int, list[float]] = defaultdict(list)
    for clip in runs:
        for run in clip:
            quality[run.setting].append(run.psnr)
    rank = {
        setting: (len(found), _known(sum(found) / len(found)), -setting)
        for setting, found in quality.items()
    }
    chosen: list[Run | None] = []
    for clip in runs:
        enough = [r for r in clip if r.evaluations >= wanted and math.isfinite(r.psnr)]
        least = min((r.evaluations for r in enough), default=None)
        tied = [r for r in enough if r.evaluations == least]
        chosen.append(max(tied, key=lambda r: rank[r.setting], default=None))
    return chosen


def promising(runs: Sequence[Run], wanted: Sequence[float], count: int, beside: int) -> list[int]:
    """Settings that are worth a run on the other clips, going by one clip.

    Args:
        wanted: evaluations.
        count: how many to keep for each of these, the best.
        beside: of those kept also this many that were tried before and after them, where the count
            differs from clip to clip.
    """
    kept: set[int] = set()
    numbers = [r.setting for r in runs]
    for n in wanted:
        enough = [r for r in runs if r.evaluations >= n and math.isfinite(r.psnr)]
        least = min((r.evaluations for r in enough), default=None)
        tied = sorted((r for r in enough if r.evaluations == least), key=lambda r: -r.psnr)
        for run in tied[:count]:
            place = numbers.index(run.setting)
            kept.update(numbers[max(0, place - beside) : place + beside + 1])
    return sorted(kept)


def _known(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def told(runs: Sequence[Run | None], settings: Sequence[Any]) -> dict[str, Any] | None:
    """What a result file keeps of the chosen runs; None where there is none."""
    found = [r for r in runs if r is not None]
    if not found:
        return None
    used = list(dict.fromkeys(r.setting for r in found))
    return {
        "psnr": [None if r is None else round(r.psnr, 3) for r in runs],
        "evaluations": [None if r is None else round(r.evaluations, 3) for r in runs],
        "settings": [settings[i] for i in used],
        "mean": bootstrap([None if r is None else r.psnr for r in runs]),
    }


def ahead(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> Any:
    """Mean difference and its interval, clip by clip; None where one has no numbers."""
    if ours is None or theirs is None:
        return None
    return paired(ours["psnr"], theirs["psnr"])


def closest(data: dict[str, Any], model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """By evaluations the rival that ours is the least ahead of, or the most behind, and how far;
    other presets of ours and fewer steps are no rivals."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, how in data["loaded"].items():
        if how["how"] == THIS_PACK:
            continue
        for n, apart in data["models"][model]["ahead"].get(f"ours - {name}", {}).items():
            if apart is not None and (n not in found or apart["mean"] < found[n][1]["mean"]):
                found[n] = name, apart
    return found


def overview(data: dict[str, Any]) -> str:
    """A table of the closest rival of each model and count."""
    counts, clips = [str(n) for n in data["evaluations"]], len(data["seeds"])
    rows = []
    for model in data["models"]:
        found = closest(data, model)
        told = []
        for n in counts:
            name, apart = found.get(n, ("", None))
            told.append(f"{cell(apart, clips, 1, sign=True)} {name.partition(',')[0]}".strip())
        rows.append([model, *told])
    head = f"ours minus the closest rival, evaluations of {data['steps']}"
    return table([head, *counts], rows)


def verdict(data: dict[str, Any]) -> str:
    """At how many models and counts ours is ahead of the closest rival, level and behind."""
    places: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for model in data["models"]:
        for n, (_, apart) in closest(data, model).items():
            places[_side(apart)].append(f"{model} {n}")
    total = sum(map(len, places.values()))
    told = [
        f"{side} at {len(found)}"
        + (f" ({', '.join(found)})" if found and len(found) < total / 2 else "")
        for side, found in places.items()
    ]
    return f"Of {total} models and counts ours is {', '.join(told)}; level is where 0 is inside."


def _side(apart: dict[str, Any]) -> str:
    low, high = apart["low"], apart["high"]
    if low is None or low <= 0 <= high:
        return "level"
    return "ahead" if low > 0 else "behind"


def model_table(data: dict[str, Any], model: str) -> str:
    """One model's table: contestants by evaluations, with what ours is ahead of each."""
    found, clips = data["models"][model], len(data["seeds"])
    counts = [str(n) for n in data["evaluations"]]
    rows = []
    for name, entry in found["contestants"].items():
        apart = found["ahead"].get(f"ours - {name}", {})
        told = [name]
        for n in counts:
            # an empty cell was not asked for
            said = _figure(entry["at"].get(n, ""), n, clips) if "at" in entry else "-"
            if apart.get(n):
                said += f"; {cell(apart[n], apart[n]['clips'], 1, sign=True)}"
            told.append(said)
        rows.append(told)
    return table([f"{model}: evaluations of {data['steps']}", *counts], rows)


def page(data: dict[str, Any]) -> str:
    """All tables, with what has to be known of them."""
    note = (
        f"PSNR in dB to the uncached video, mean of {len(data['seeds'])} clips, or of as many as "
        f"brackets say, of {data['frames']} latent frames; after it ours minus this one, of the "
        "clips that both ran on, and the 95 % interval over clips; *at* is the count where the "
        f"wanted one cannot be had. ComfyUI {data['comfyui']}, {data['steps']} Euler steps, two "
        f"prompts; {data['device']}, torch {data['torch']}. Of all settings that were tried a "
        "rival is shown with those that suit it best on these clips, ours with those of the "
        "preset; the result file names them, and the command of every figure."
    )
    tables = [model_table(data, model) for model in data["models"]]
    return "\n\n".join((overview(data), verdict(data), *tables, note, "\n".join(remarks(data))))


def in_a_cell(difference: dict[str, Any]) -> str:
    """Mean differences by evaluations; a question mark where an interval holds 0."""
    told = []
    for _, estimate in sorted(difference.items(), key=lambda item: int(item[0])):
        told.append(f"{estimate['mean']:+.1f}{'?' if _side(estimate) == 'level' else ''}")
    return " / ".join(told) or "-"


def _figure(entry: dict[str, Any] | str | None, wanted: str, clips: int) -> str:
    """A mean, and where the count is another one than wanted, that one."""
    if entry is None:
        return "-"
    if isinstance(entry, str):
        return entry
    counts = [n for n in entry["evaluations"] if n is not None]
    mean = sum(counts) / len(counts)
    said = f"{entry['mean']['mean']:.1f}"
    if abs(mean - float(wanted)) > 0.05:
        said += f" (at {mean:.1f})"
    return said if len(counts) == clips else f"{said} ({len(counts)} clips)"


def remarks(data: dict[str, Any]) -> list[str]:
    """How each contestant was loaded, and why one has no numbers."""
    lines = []
    for name, how in data["loaded"].items():
        lines.append(f"- {name}: {how['how']}; {how['version']}.")
    for model, found in data["models"].items():
        for name, entry in found["contestants"].items():
            if "why" in entry:
                lines.append(f"- {name} on {model}: no number, {entry['why']}.")
            elif entry.get("after"):
                lines.append(f"- {name} on {model}: {entry['after']}.")
    return lines
