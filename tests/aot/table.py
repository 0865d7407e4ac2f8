"""The compiled kernels as a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
# bytes of a thread's widest load, at least, where the array's length allows it
VECTOR = 8


def problem(row: Row) -> str:
    """What is wrong with a binary; empty where nothing is."""
    if row["error"]:
        return str(row["error"])
    if row["spill"]:
        return f"{row['kernel']} spills {row['spill']} bytes of registers"
    widest = max(map(int, row["loads"]), default=0)
    if row["target"].startswith("cuda") and row["clips"] != ["odd"] and widest < VECTOR:
        return (
            f"{row['kernel']} loads {widest} bytes at a time at most: the compiler does not know "
            "that the length is divisible (side_alignment in kernels/triton/_tuning.py)"
        )
    return ""


def report(rows: Sequence[Row], triton: str, seconds: float) -> str:
    """Markdown: what failed, then for every kernel what it needs on every target."""
    good, bad = [r for r in rows if not r["error"]], [r for r in rows if problem(r)]
    targets = list(dict.fromkeys(r["target"] for r in rows))
    lines = [
        f"# Kernels compiled by Triton {triton}",
        "",
        summary(rows, triton, seconds) + ".",
        "",
        "`regs`: registers of a thread; `occ`: share of the warps of a multiprocessor that can be "
        "resident; `smem`: bytes of shared memory; `loads`: bytes of a thread's global loads x how "
        "many of them (16 is a full vector), on the first target. **spill**: registers spilled.",
        "",
    ]
    if bad:
        lines += ["## Failed", "", *(f"* {failure(r)}" for r in bad), ""]
    heads = [f"{t.split(':')[1]} regs/occ" for t in targets]
    lines += [
        "| kernel | call | video | dtype | C | warps | smem | loads | " + " | ".join(heads) + " |",
        "|---|---|---|---|---|---|---|---|" + "---|" * len(targets),
    ]
    kernels: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in sorted(good, key=lambda row: row["kernel"]):
        key = tuple(row[k] for k in ("kernel", "call", "dtype", "channels", "launch"))
        key += (", ".join(row["clips"]),)
        kernels.setdefault(key, {})[row["target"]] = row
    for (kernel, call, dtype, channels, _, video), by_target in kernels.items():
        first = next(iter(by_target.values()))
        loads = ", ".join(f"{size}x{count}" for size, count in first["loads"].items())
        cells = [kernel, call, video, dtype, str(channels or ""), str(first["warps"])]
        cells += [str(first["shared"]), loads]
        cells += [_cell(by_target.get(target)) for target in targets]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row], triton: str, seconds: float) -> str:
    """One line."""
    binaries = sum(not row["error"] for row in rows)
    bad = sum(bool(problem(row)) for row in rows)
    return f"triton {triton}: {binaries} binaries, {bad} problems, {seconds:.0f} s"


def failure(row: Row) -> str:
    """What went wrong, and where."""
    where = [row["target"], row["op"], row["call"], row["dtype"], str(row["channels"] or "")]
    return f"{' '.join(part for part in where if part)}: {problem(row)}"


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    occupancy = "?" if row["occupancy"] is None else f"{row['occupancy']:.0%}"
    spill = f" **spill {row['spill']} B**" if row["spill"] else ""
    return f"{row['registers']} / {occupancy}{spill}"
