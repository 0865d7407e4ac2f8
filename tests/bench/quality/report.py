"""The quality bench's figures as Markdown and as curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from quality.analysis import TARGETS, level
from quality.tables import cell, table

mpl.use("agg")

from matplotlib import pyplot as plt

# Okabe and Ito's colours and a grey, which people of all kinds of sight tell apart, a mark each
COLOURS = ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#000000", "#009E73", "#CC79A7", "#888888"]
LOOKS = tuple(zip(COLOURS, "os^DxvP*", strict=True))
STROKES = ("-", "--", ":")
PANELS = {
    "psnr": "PSNR, dB",
    "temporal_psnr": "PSNR of frame differences, dB",
    "ssim_loss": "1 - SSIM",
    "psnr_moving": "PSNR where it moves, dB",
    "psnr_static": "PSNR where it does not, dB",
    "cpu_speedup": "speed-up by CPU time",
}
DETAILS = {
    "ssim": ("SSIM", 4),
    "temporal_psnr": ("frame differences, dB", 1),
    "psnr_moving": ("moving, dB", 1),
    "psnr_static": ("static, dB", 1),
    "region_gap": ("static less moving, dB", 1),
    "speedup": ("speed-up, clock", 2),
    "cpu_speedup": ("speed-up, CPU", 2),
}
DETAILED = 0.40
NOTE = (
    "PSNR is to the uncached video of the same clip. Equal compute: of every clip, a line through "
    "the runs of its sweep within a fifth of that share, near ones counting more, or else through "
    "the two next to it, never beyond the sweep; then the mean over clips with its 95 % bootstrap "
    "interval, of six clips or more. Differences are taken clip by clip. A count behind a figure "
    "says how many clips reach that share, where not all do. Curves bend down: between runs that "
    "are far apart a figure is too low, so look at how far the nearest run is."
)


def markdown(mode: str, figures: dict[str, Any]) -> str:
    """A mode's tables."""
    clips = figures["clips"]
    at = "compute_share"
    shares = [level(share) for share in TARGETS]
    policies = [
        [name, *(cell(p["at"][at][s]["psnr"], clips, 1) for s in shares)]
        for name, p in figures["policies"].items()
    ]
    differences = [
        [
            f"{d['policy']} over {d['over']}",
            *(cell(d["at"][at][s]["psnr"], clips, 2, True) for s in shares),
            cell(d["at"][at][level(DETAILED)]["region_gap"], clips, 2, True),
        ]
        for d in figures["differences"]
    ]
    details = [
        [
            name,
            f"{p['distance_to_a_run'][level(DETAILED)]:.3f}",
            *(
                cell(p["at"][at][level(DETAILED)][measure], clips, digits)
                for measure, (_, digits) in DETAILS.items()
            ),
        ]
        for name, p in figures["policies"].items()
    ]
    told = [f"{s} of the tokens" for s in shares]
    return "\n\n".join(
        [
            f"## {mode.capitalize()}, clips: {clips}",
            table(["PSNR, dB", *told], policies),
            table(["PSNR, dB", *told, f"static less moving at {DETAILED:.2f}"], differences),
            table(
                [f"at {DETAILED:.2f}", "nearest run", *(title for title, _ in DETAILS.values())],
                details,
            ),
        ]
    )


def grid_of_panels(
    title: str, path: Path, panels: dict[str, tuple[dict[str, Any], str]], legends: bool = False
) -> None:
    """A picture of panels, three in a row.

    Args:
        panels: by label, policies and the measure that is drawn of them.
        legends: a legend in every panel, for panels that show policies of their own.
    """
    rows = -(-len(panels) // 3)
    figure, places = plt.subplots(
        rows, 3, figsize=(15, 4.25 * rows), layout="constrained", squeeze=False
    )
    for i, place in enumerate(places.flat):
        place.set_visible(i < len(panels))
    for place, (label, shown) in zip(places.flat, panels.items(), strict=False):
        draw(place, *shown)
        place.set_xlabel("share of tokens computed")
        place.set_ylabel(label)
        place.grid(alpha=0.3)
        if legends:
            place.legend(fontsize=8)
    if not legends:
        figure.legend(
            *places[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5
        )
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(place: Any, policies: dict[str, Any], measure: str) -> None:
    """The mean over clips of each run of a sweep, with its interval."""
    if measure == "ssim_loss":
        place.set_yscale("log")
    for i, (name, policy) in enumerate(policies.items()):
        colour, mark, stroke = look(i)
        runs = [r for r in policy["sweep"] if r[measure] is not None]
        found = [r[measure] for r in runs]
        ends = [[f["mean"] if f[end] is None else f[end] for f in found] for end in ("low", "high")]
        means = [f["mean"] for f in found]
        place.errorbar(
            [r["compute_share"]["mean"] for r in runs], means, label=name,
            yerr=[[abs(a - b) for a, b in zip(end, means, strict=True)] for end in ends],
            color=colour, marker=mark, linestyle=stroke, markersize=5, linewidth=1.4,
            elinewidth=0.8, capsize=2,
        )  # fmt: skip


def look(i: int) -> tuple[str, str, str]:
    """Colour, mark and stroke of a picture's i-th curve."""
    return *LOOKS[i % len(LOOKS)], STROKES[i // len(LOOKS) % len(STROKES)]
