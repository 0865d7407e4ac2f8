"""Write the numbers of README.md and of tests/bench/README.md from the committed result files.

python tests/bench/readme.py [--check]
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from families_table import families_table
from host_nodes_table import host_nodes_table
from readme_answers import answer_summary, answer_tables, clock_table, cost_line
from readme_magi import magi_table
from readme_quality import ablation_tables, attention_tables, quality_tables
from readme_rivals import rival_row, rivals_page
from readme_tokens import token_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"


def demo_table(data: dict[str, Any]) -> str:
    """The demo's run as a table."""
    demo, totals = data["demo"], data["totals"]
    rows = [
        ("evaluations", f"{totals['dense']} dense, {totals['partial']} partial, "
                        f"{totals['reuse']} reused"),
        ("tokens computed", f"{totals['compute_share']:.1%} of the uncached run"),
        ("wall clock", f"{demo['wall_clock_ratio']:.2f}x faster than the uncached run"),
        ("to the uncached video", f"PSNR {demo['psnr_db']:.1f} dB, SSIM {demo['ssim']:.4f}"),
    ]  # fmt: skip
    what = f'scene "{demo["scene"]}", {demo["steps"]} steps, seed {demo["seed"]}'
    head = f"| {what} | {demo['preset']} |"
    return "\n".join([head, "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


KINDS = ("dense", "active 85%", "active 50%", "active 25%", "active 10%", "reuse")
OPS_AT = ("active 85%", "active 50%", "reuse")


def shares_row(row: dict[str, Any]) -> list[str]:
    """Measured shares, each beside its ideal where the file has one."""
    shares, ideals = row["share_of_unpatched"], row.get("ideal_share", {})
    found = []
    for kind in KINDS:
        ideal = f" ({ideals[kind]:.1%})" if kind in ideals else ""
        found.append(f"{shares[kind]:.1%}{ideal}" if kind in shares else "")
    return found


def engine_table(data: dict[str, Any]) -> str:
    """The engine bench on a CPU."""
    env, models = data["environment"], [row["model"] for row in data["rows"]]
    lines = [f"| {' | '.join((row['geometry'], *shares_row(row)))} |" for row in data["rows"]]
    blocks = ", ".join(str(model["layers"]) for model in models)
    rounds = ", ".join(str(row["rounds"]) for row in data["rows"])
    note = (
        f"{models[0]['tokens']} tokens, batch {models[0]['batch']}; {blocks} blocks; "
        f"{env['device']}, {env['threads']} thread(s), torch {env['torch']}; medians of {rounds} "
        "rounds."
    )
    head = ("network", *KINDS)
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines, "", note])


def machine(data: dict[str, Any]) -> str:
    """Where a GPU's numbers are from."""
    env = data["environment"]
    return (
        f"{env['device']}, driver {env['driver']}, torch {env['torch']}, Triton {env['triton']}, "
        f"commit {env['commit']}"
    )


def gpu_engine_table(data: dict[str, Any]) -> str:
    """The engine bench at the sizes of Wan."""
    rows = []
    for row in data["rows"]:
        ours = [sum(row["ops_share"][kind].values()) for kind in OPS_AT]
        cells = (row["geometry"], *shares_row(row), *(f"{share:.2%}" for share in ours))
        rows.append(f"| {' | '.join(cells)} |")
    head = ("network, clip", *KINDS, *(f"our ops, {kind}" for kind in OPS_AT))
    rounds = sorted({row["rounds"] for row in data["rows"]})
    note = (
        f"{machine(data)}; batch 1, bf16, medians of {' to '.join(map(str, rounds))} rounds. "
        "In brackets the ideal; our ops are shares of the same evaluation of the network alone."
    )
    skipped = [f"{name} was skipped: it {why}." for name, why in data["skipped"].items()]
    plain = [row["geometry"] for row in data["rows"] if not row["model"]["kv_forecast"]]
    if plain:
        skipped.append(f"Without kv_forecast, for which there is no memory: {', '.join(plain)}.")
    table = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]
    return "\n".join([*table, "", " ".join((note, *skipped))])


def gpu_kernel_table(data: dict[str, Any]) -> str:
    """The kernel bench: microseconds and share of a copy, by op and geometry."""
    if data["red"]:
        sys.exit(f"the kernel bench was red: {data['red']}; fix the op and measure again")
    rows = [row for row in data["rows"] if row["backend"] == "triton"]
    geometries = list(dict.fromkeys(row["geometry"] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        share = row["share_of_same_copy"] if row["small"] else row["share_of_copy"]
        told = f"{row['median_us']:.0f} us, {share:.0%}{' *' if row['small'] else ''}"
        cells.setdefault(row["case"], {})[row["geometry"]] = told
    head = f"| op | {' | '.join(geometries)} |"
    lines = [
        f"| `{case}` | {' | '.join(found.get(g, '') for g in geometries)} |"
        for case, found in cells.items()
    ]
    copies = {row["geometry"]: f"{row['copy_gb_per_s']:.0f}" for row in rows}
    batches = {row["geometry"]: str(row["batch"]) for row in rows}
    note = (
        f"{machine(data)}; bf16, batch {', '.join(batches.values())}, 30% of the rows active, "
        f"cold cache; the copies reach {', '.join(copies.values())} GB/s. * works on few numbers a "
        "token and is bound by its launches; the share is that of a copy of as many bytes."
    )
    return "\n".join([head, "|---|" + "---|" * len(geometries), *lines, "", note])


def gpu_tables(bench: str, table: Callable[[dict[str, Any]], str]) -> str:
    """A table for each committed result of a GPU; a sentence where there is none."""
    files = sorted(RESULTS.glob(f"{bench}_*.json"))
    if not files:
        return "Not measured on a GPU yet."
    tables = []
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["environment"]["device"] == "cpu":
            sys.exit(f"{file.name} was measured on a CPU; GPU tables take results of a GPU only")
        tables.append(table(data))
    return "\n\n".join(tables)


def preset_table(data: dict[str, Any]) -> str:
    """What each preset computes and how close it stays."""
    rows = [
        f"| {name} | {row['compute_share']:.0%} | {row['psnr_db']:.1f} dB | "
        f"{row['psnr_db_worst']:.1f} dB |"
        for name, row in data["presets"].items()
    ]
    head = "| preset | tokens computed | PSNR, mean | PSNR, worst clip |"
    note = f"Mean of {data['clips']} clips of model tracks, {data['steps']} Euler steps."
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


def side_by_side_table(data: dict[str, Any]) -> str:
    """What each cache did in each case."""
    names = [name for name, settings in data["caches"].items() if settings]
    marks = {"differs": "**differs**", "crashes": "**crashes**"}
    rows = []
    for case, cells in data["cells"].items():
        found = [cells[name] for name in names]
        told = [
            # of an exception the kind is enough here
            f"{marks.get(c['verdict'], c['verdict'])}: "
            + (c["said"].partition(":")[0] if c["verdict"] == "crashes" else c["said"])
            for c in found
        ]
        rows.append(f"| {' | '.join((case, *told))} |")
    env = data["environment"]
    note = (
        f"ComfyUI {data['comfyui']}, {data['steps']} Euler steps of a small Wan with random "
        f"weights; {env['device']}, torch {env['torch']}. *Error* is the relative distance to the "
        f"uncached run; more than {data['room']:g} times the plain run's counts as *differs*."
    )
    head = f"| {' | '.join(('', *names))} |"
    return "\n".join([head, "|---" * (1 + len(names)) + "|", *rows, "", note])


def estimate_line(data: dict[str, Any]) -> str:
    """How far estimated times of runs without a cache are from measured ones."""
    off, runs = [abs(run["off_by"]) for run in data["runs"]], len(data["runs"])
    return (
        f"Within {data['within']:.0%} are {data['near']} of {runs} runs of {data['steps']} steps, "
        f"the worst is {max(off):.1%} off; {data['environment']['device']}."
    )


def demo_limits() -> str:
    """What a reader has to know of the demo model, read off its module without importing torch."""
    source = (ROOT / "motioncache_core" / "demo" / "checkpoint.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIMITS":
            return textwrap.fill(ast.literal_eval(node.value), 100)
    sys.exit("motioncache_core/demo/checkpoint.py has no LIMITS")


def from_file(name: str, table: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return lambda: table(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


Blocks = dict[str, Callable[[], str]]

PAGES: dict[str, Blocks] = {
    "README.md": {
        "demo_model": demo_limits,
        "demo": from_file("demo", demo_table),
        "answers": from_file("answers", lambda data: answer_summary(data, rival_row)),
    },
    "tests/bench/README.md": {
        "presets": from_file("presets", preset_table),
        "estimates": from_file("estimates", estimate_line),
        "estimates_page": from_file("estimates_page", estimate_line),
        "answers": from_file("answers", answer_tables),
        "answer_cost": from_file("answers_cost", cost_line),
        "answer_clock": from_file("answers_clock", clock_table),
        "token_answers": from_file("token_answers", token_table),
        "rivals": from_file("rivals", rivals_page),
        "rivals_50": from_file("rivals_50", rivals_page),
        "quality": lambda: quality_tables(RESULTS),
        "ablations": lambda: ablation_tables(RESULTS),
        "attention": lambda: attention_tables(RESULTS),
        "side_by_side": from_file("side_by_side", side_by_side_table),
        "families": from_file("families", families_table),
        "host_nodes": from_file("host_nodes", host_nodes_table),
        "engine": from_file("engine", engine_table),
        "engine_host": from_file("host_engine", engine_table),
        "engine_gpu": lambda: gpu_tables("engine", gpu_engine_table),
        "kernels_gpu": lambda: gpu_tables("kernels", gpu_kernel_table),
        "diffusion_forcing": from_file("diffusion_forcing", forcing_table),
        "magi1": from_file("magi1", magi_table),
    },
}


def filled(page: str, text: str) -> str:
    """A page with every marked block made anew."""
    for name, block in PAGES[page].items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        if not rest or end not in rest:
            sys.exit(f"{page} has no block {start.strip()} ... {end}")
        text = f"{before}{start}{block()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the numbers of both pages.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    args = parser.parse_args()
    for page in PAGES:
        file = ROOT / page
        text = file.read_text(encoding="utf-8")
        new = filled(page, text)
        if not args.check:
            file.write_text(new, encoding="utf-8")
        elif new != text:
            sys.exit(f"{page}'s numbers are not those of tests/bench/results; run this script")


if __name__ == "__main__":
    main()
