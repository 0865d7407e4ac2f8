"""Time every op on every back end that can run here, after checking them.

    python tests/bench/kernels.py [--json OUT] [--repeats N]

On CUDA the sizes are Wan 14B's at 480p and 81 frames; on a CPU they are small, and the numbers say
nothing about a GPU. Bytes are what the op must move at least, GB/s is bytes by median time, and the
share is that of a plain device copy measured in the same run. The gate compares the back ends;
where only the reference can run, it is the reference's tests. No numbers when it is red.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-3}


@dataclass(frozen=True)
class Sizes:
    device: str
    dtype: torch.dtype
    batch: int
    frames: int
    tokens: int
    channels: int
    active: float

    @property
    def length(self) -> int:
        return self.frames * self.tokens

    @property
    def count(self) -> int:
        return int(self.length * self.active)


@dataclass(frozen=True)
class Case:
    """`make` gives fresh arguments, as some ops write into theirs; `moved` is in bytes."""

    make: Callable[[], tuple[Any, ...]]
    moved: int
    named: dict[str, Any]


WAN = Sizes("cuda", torch.bfloat16, 2, 21, 1560, 5120, 0.3)
SMALL = Sizes("cpu", torch.float32, 2, 6, 256, 384, 0.3)


def floats(sizes: Sizes, *shape: int) -> Tensor:
    return torch.randn(shape, device=sizes.device, dtype=sizes.dtype)


def chosen(sizes: Sizes) -> Tensor:
    picks = torch.randperm(sizes.length)[: sizes.count].sort().values
    return picks.to(sizes.device, torch.int32)[None]


def tokens_bytes(sizes: Sizes, rows: int) -> int:
    return sizes.batch * rows * sizes.channels * sizes.dtype.itemsize


def case_motion_map(sizes: Sizes) -> Case:
    features = floats(sizes, sizes.batch, sizes.frames, sizes.tokens, sizes.channels)
    moved = tokens_bytes(sizes, sizes.length) + 4 * sizes.batch * sizes.length
    return Case(lambda: (features,), moved, {})


def case_accumulate_due(sizes: Sizes) -> Case:
    accumulator = torch.rand(sizes.length, device=sizes.device)
    stale = torch.randint(0, 9, (sizes.length,), device=sizes.device, dtype=torch.int32)
    distance = torch.tensor(0.1, device=sizes.device)
    weight = torch.rand(sizes.length, device=sizes.device)
    named = {
        "frames": sizes.frames,
        "threshold": 0.5,
        "agreement": 0.5,
        "min_update_ratio": 0.1,
        "max_stale_steps": 8,
    }
    return Case(
        lambda: (accumulator.clone(), stale.clone(), distance, weight), 21 * sizes.length, named
    )


def case_compact_rows(sizes: Sizes) -> Case:
    mask = (torch.rand(sizes.length, device=sizes.device) < sizes.active).to(torch.uint8)
    return Case(lambda: (mask,), 9 * sizes.length, {})


def case_gather_rows(sizes: Sizes) -> Case:
    x, rows = floats(sizes, sizes.batch, sizes.length, sizes.channels), chosen(sizes)
    return Case(lambda: (x, rows), 2 * tokens_bytes(sizes, sizes.count), {})


def case_reuse_residual(sizes: Sizes) -> Case:
    x, residual, slope = (
        floats(sizes, sizes.batch, sizes.length, sizes.channels) for _ in range(3)
    )
    gain = torch.rand(sizes.length, device=sizes.device)
    return Case(lambda: (x, residual, slope, gain), 4 * tokens_bytes(sizes, sizes.length), {})


def case_scatter_residual(sizes: Sizes) -> Case:
    x, residual, slope = (
        floats(sizes, sizes.batch, sizes.length, sizes.channels) for _ in range(3)
    )
    new, rows = floats(sizes, sizes.batch, sizes.count, sizes.channels), chosen(sizes)
    inverse = torch.full((1, sizes.length), -1, device=sizes.device, dtype=torch.int32)
    inverse[0, rows[0].long()] = torch.arange(sizes.count, device=sizes.device, dtype=torch.int32)
    gain, rate = (torch.rand(sizes.length, device=sizes.device) for _ in range(2))
    # x, residual, y for all; new, residual, slope for the active; slope for the others
    moved = 4 * tokens_bytes(sizes, sizes.length) + 2 * tokens_bytes(sizes, sizes.count)
    return Case(lambda: (x, new, inverse, residual.clone(), slope.clone(), gain, rate), moved, {})


def case_scatter_kv(sizes: Sizes) -> Case:
    k_new, v_new = (floats(sizes, sizes.batch, sizes.count, sizes.channels) for _ in range(2))
    k_store, v_store = (floats(sizes, sizes.batch, sizes.length, sizes.channels) for _ in range(2))
    rows = chosen(sizes)
    return Case(
        lambda: (k_new, v_new, rows, k_store.clone(), v_store.clone()),
        4 * tokens_bytes(sizes, sizes.count),
        {},
    )


CASES = {
    case.__name__.removeprefix("case_"): case
    for case in (
        *(case_motion_map, case_accumulate_due, case_compact_rows, case_gather_rows),
        *(case_reuse_residual, case_scatter_residual, case_scatter_kv),
    )
}


def load_kernels() -> Any:
    pack = types.ModuleType("motioncache_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["motioncache_pack"] = pack
    return importlib.import_module("motioncache_pack.kernels")


def run_on(kernels: Any, backend: str, op: str, case: Case) -> tuple[Tensor, ...]:
    """All results of one call, the arguments that it may have written included."""
    given = case.make()
    with kernels.use_backend(backend):
        result = getattr(kernels, op)(*given, **case.named)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(value for value in (*results, *given) if isinstance(value, Tensor))


def disagreement(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...]) -> str | None:
    for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
        if left.is_floating_point():
            error = torch.dist(left.float(), right.float()) / left.float().norm().clamp(min=1e-12)
            # a NaN must not pass
            if not float(error) <= TOLERANCE[left.dtype]:
                return f"tensor {index}: relative RMS error {float(error):.2e}"
        elif not torch.equal(left, right):
            return f"tensor {index}: {int((left != right).sum())} numbers differ"
    return None


def gate(kernels: Any, cases: dict[str, Case], backends: list[str]) -> list[str]:
    """What is wrong; nothing must be."""
    if backends == ["reference"]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-m", "not triton", str(ROOT / "tests" / "kernels")],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return [] if done.returncode == 0 else [(done.stdout + done.stderr)[-2000:]]
    red = []
    for op, case in cases.items():
        expected = run_on(kernels, "reference", op, case)
        for backend in backends:
            wrong = disagreement(expected, run_on(kernels, backend, op, case))
            if wrong is not None:
                red.append(f"{op} on {backend}: {wrong}")
    return red


def seconds(call: Callable[[], object], device: str, repeats: int) -> list[float]:
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            # larger than the cache of the device, so that no run finds its data there
            flush = torch.zeros(1 << 28, dtype=torch.uint8, device=device)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            del flush
            times.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return sorted(times)


def environment(kernels: Any, sizes: Sizes) -> dict[str, str]:
    def told(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip() or "unknown"

    cuda = sizes.device == "cuda"
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "driver": told(*driver) if cuda else "none",
        "torch": torch.__version__,
        "triton": kernels.triton.status()[1],
        "commit": told("git", "rev-parse", "HEAD"),
        "threads": str(torch.get_num_threads()),
        "sizes": str(sizes),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    kernels = load_kernels()
    sizes = WAN if torch.cuda.is_available() else SMALL
    # the interpreter is no back end to time
    fast = sizes.device == "cuda" and kernels.triton.status()[0]
    backends = ["reference", "triton"] if fast else ["reference"]
    cases = {op: make(sizes) for op, make in CASES.items()}

    red = gate(kernels, cases, backends)
    if red:
        print("No numbers: the gate is red.", *red, sep="\n")
        return 1

    source = floats(sizes, sizes.batch, sizes.length, sizes.channels)
    target = torch.empty_like(source)
    times = seconds(lambda: target.copy_(source), sizes.device, options.repeats)
    copy = 2 * tokens_bytes(sizes, sizes.length) / statistics.median(times)
    facts = environment(kernels, sizes)
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if sizes.device == "cpu":
        print("These are small sizes on a CPU. They say nothing about a GPU.")
    print(f"copy: {copy / 1e9:.1f} GB/s")
    print(
        f"{'op':18}{'back end':11}{'median us':>11}{'20 %':>9}{'80 %':>9}{'MB':>9}{'GB/s':>8}"
        f"{'of copy':>9}"
    )
    rows = []
    for op, case in cases.items():
        for backend in backends:
            given = case.make()
            with kernels.use_backend(backend):
                call = partial(getattr(kernels, op), *given, **case.named)
                times = seconds(call, sizes.device, options.repeats)
            median, low, high = (times[int(len(times) * share)] for share in (0.5, 0.2, 0.8))
            row = {
                "op": op,
                "backend": backend,
                "median_us": median * 1e6,
                "p20_us": low * 1e6,
                "p80_us": high * 1e6,
                "bytes": case.moved,
                "gb_per_s": case.moved / median / 1e9,
                "share_of_copy": case.moved / median / copy,
            }
            rows.append(row)
            print(
                f"{op:18}{backend:11}{row['median_us']:11.1f}{row['p20_us']:9.1f}"
                f"{row['p80_us']:9.1f}{case.moved / 1e6:9.2f}{row['gb_per_s']:8.1f}"
                f"{row['share_of_copy']:9.1%}"
            )
    if options.json:
        facts_and_rows = {"environment": facts, "copy_gb_per_s": copy / 1e9, "rows": rows}
        options.json.write_text(json.dumps(facts_and_rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
