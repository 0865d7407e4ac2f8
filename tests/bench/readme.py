"""Write the README's numbers from the committed result files.

python tests/bench/readme.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
README = ROOT / "README.md"


def demo_table(data: dict[str, Any]) -> str:
    """The demo's run as a table."""
    demo, totals = data["demo"], data["totals"]
    rows = [
        ("evaluations", f"{totals['dense']} dense, {totals['partial']} partial, "
                        f"{totals['reuse']} reused"),
        ("tokens computed", f"{totals['compute_share']:.1%} of the uncached run"),
        ("wall clock", f"{demo['wall_clock_ratio']:.2f}x faster than the uncached run"),
        ("PSNR to the uncached video", f"{demo['psnr_db']:.1f} dB"),
        ("SSIM to the uncached video", f"{demo['ssim']:.4f}"),
    ]  # fmt: skip
    what = f'scene "{demo["scene"]}", {demo["steps"]} steps, seed {demo["seed"]}'
    head = f"| {what} | {demo['preset']} |"
    return "\n".join([head, "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def engine_table(data: dict[str, Any]) -> str:
    """The engine bench as a table."""
    model = data["model"]
    shares = data["share_of_unpatched"]
    kinds = [k for k in shares if k != "unpatched"]
    head = "| " + " | ".join(f"{k}" for k in kinds) + " |"
    line = "|" + "---|" * len(kinds)
    body = "| " + " | ".join(f"{shares[k]:.1%}" for k in kinds) + " |"
    note = (
        f"{model['tokens']} tokens, width {model['dim']}, {model['layers']} blocks, batch "
        f"{model['batch']}; {data['environment']['device']}, {data['environment']['threads']} "
        f"thread(s), torch {data['environment']['torch']}; medians of {data['rounds']} rounds."
    )
    return "\n".join([head, line, body, "", note])


def preset_table(data: dict[str, Any]) -> str:
    """What each preset computes and how close it stays."""
    rows = [
        f"| `{name}` | {row['compute_share']:.0%} | {row['psnr_db']:.1f} dB | "
        f"{row['psnr_db_worst']:.1f} dB |"
        for name, row in data["presets"].items()
    ]
    head = "| preset | tokens computed | PSNR, mean | PSNR, worst clip |"
    note = f"Mean of {data['clips']} clips of the demo model, {data['steps']} Euler steps."
    return "\n".join([head, "|---|---|---|---|", *rows, "", note])


def forcing_table(data: dict[str, Any]) -> str:
    """What attention mode and reuse bring in diffusion forcing, each over its own baseline."""
    rows = []
    for name, kind in data["kinds"].items():
        for over, share in kind.items():
            if not over.startswith("over ") or over.removeprefix("over ") == name:
                continue
            rows.append(
                f"| {name} | {over.removeprefix('over ')} | {share['flops_share']:.0%} | "
                f"{share['promised_speedup']:.2f}x | {share['measured_speedup']:.2f}x |"
            )
    model, run, env = data["model"], data["run"], data["environment"]
    note = (
        f"{run['frames']} latent frames in chunks of {run['chunk_frames']}, {run['chunk_delay']} "
        f"steps apart, {run['steps']} steps, {run['branches']} branches; width {model['dim']}, "
        f"{model['layers']} blocks; {env['device']}, {env['threads']} thread(s), torch "
        f"{env['torch']}; medians of {data['rounds']} rounds."
    )
    head = "| run | compared with | work | speed-up by work | speed-up by the clock |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", note])


TABLES = {
    "demo": demo_table,
    "engine": engine_table,
    "presets": preset_table,
    "diffusion_forcing": forcing_table,
}


def filled(text: str) -> str:
    """The README with every marked block made anew."""
    for name, table in TABLES.items():
        data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        if not rest or end not in rest:
            sys.exit(f"README.md has no block {start.strip()} ... {end}")
        text = f"{before}{start}{table(data)}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the README's numbers.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    args = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if args.check:
        if new != text:
            sys.exit("README.md's numbers are not those of tests/bench/results; run this script")
        return
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
