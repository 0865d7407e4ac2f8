"""Compile every kernel launch of the pack for GPUs that are not here.

    python tests/aot/compile_all.py [--targets cuda:80,hip:gfx942] [--json OUT]

Runs the pack's own wrappers on meta tensors of Wan's size (`launches`) under a driver that only
names a target, so that what is compiled is what production launches, specialisation included.
Exits with 1 if a kernel does not compile, spills registers, loads single numbers only or is
launched on a grid that the GPU does not have, or if an op launches no kernel. With --json, a table
to read is written beside it. Works with Triton 3.6.0 and 3.9.0, whose private interfaces it uses;
TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from resources import resources
from table import failure, problem, report, summary
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.jit import JITFunction

ROOT = Path(__file__).resolve().parents[2]
TARGETS = "cuda:80,cuda:89,cuda:90,cuda:100,cuda:120,hip:gfx942"
GRID = (2**31 - 1, 65535, 65535)
LAUNCH = JITFunction.run


class NamedTarget(DriverBase):
    """A driver without a device: it answers what the compiler asks."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def get_benchmarker(self) -> Callable[..., Any]:
        raise NotImplementedError("nothing runs here")

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, name: str) -> str:
        return name


def load_pack(module: str) -> Any:
    """A module of the pack, under the pack's alias."""
    if "motioncache_pack" not in sys.modules:
        pack = types.ModuleType("motioncache_pack")
        pack.__path__ = [str(ROOT)]
        sys.modules["motioncache_pack"] = pack
    return importlib.import_module(f"motioncache_pack.{module}")


def gpu_target(name: str) -> GPUTarget:
    backend, arch = name.split(":")
    if backend == "cuda":
        return GPUTarget("cuda", int(arch), 32)
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def compile_target(name: str) -> list[dict[str, Any]]:
    """One row for each binary, at its first launch, and for each failure. Triton in this process
    is of no use for anything else afterwards."""
    kernels = load_pack("kernels")
    all_calls = load_pack("tests.aot.launches").all_calls
    triton.runtime.driver.set_active(NamedTarget(gpu_target(name)))
    launched: list[tuple[JITFunction, Any]] = []
    functions: set[JITFunction] = set()

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        if any(not 0 < n <= most for n, most in zip(grid, GRID, strict=False)):
            raise ValueError(f"grid {tuple(grid)} is not within {GRID}")
        compiled = LAUNCH(self, *args, grid=grid, warmup=True, **options)
        launched.append((self, compiled))
        functions.add(self)
        return compiled

    JITFunction.run = compile_only
    package = kernels.triton.BACKEND.package
    missing = {op.__name__ for op in kernels.ops.OPS}
    known: dict[str, dict[str, Any]] = {}
    failed = []
    for clip, call, channels, sizes, case in all_calls():
        op, dtype = case.op, "" if case.small else str(sizes.dtype).removeprefix("torch.")
        row = {"target": name, "op": op, "call": call, "dtype": dtype, "channels": channels}
        launched.clear()
        try:
            kernels.registry.implementation(package, op)(*case.arguments())
        except Exception as error:
            why = f"{clip}: {type(error).__name__}: {error}"
            failed.append(row | {"error": why[:300]})
            continue
        if launched:
            missing.discard(op)
        for i, (function, compiled) in enumerate(launched):
            if compiled.hash not in known:
                found = resources(name, compiled)
                extra = {"kernel": function.fn.__name__, "launch": i, "clips": [], "error": None}
                known[compiled.hash] = row | extra | found
            clips = known[compiled.hash]["clips"]
            if clip not in clips:
                clips.append(clip)
    # they hold what was compiled, by device and not by target
    for function in functions:
        function.device_caches.clear()
    for op in sorted(missing - {row["op"] for row in failed}):
        why = "no kernel was launched; add a case to tests/kernels/cases"
        row = {"target": name, "op": op, "call": "", "dtype": "", "channels": 0}
        failed.append(row | {"error": why})
    return [*known.values(), *failed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args()
    start = time.perf_counter()
    targets = options.targets.split(",")
    # processes, because there is one driver for all of Triton
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        rows = [row for found in pool.map(compile_target, targets) for row in found]
    seconds = time.perf_counter() - start

    failed = [row for row in rows if problem(row)]
    for row in failed:
        print(failure(row))
    text = report(rows, triton.__version__, seconds)
    if options.json:
        content = {"triton": triton.__version__, "kernels": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(text)
    else:
        print(text)
    print(summary(rows, triton.__version__, seconds))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
