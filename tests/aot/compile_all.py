"""Compile every kernel launch of the pack for GPUs that are not here.

    python tests/aot/compile_all.py [--targets cuda:80,hip:gfx942] [--json OUT]

Runs the pack's own wrappers on meta tensors of Wan's size under a driver that only names a target,
so that what is compiled is what production launches, specialisation included. Exits with 1 if a
kernel does not compile or spills registers. Works with Triton 3.6.0 and 3.9.0, whose private
interfaces it uses; TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

ROOT = Path(__file__).resolve().parents[2]
TARGETS = "cuda:80,cuda:89,cuda:90,cuda:100,cuda:120,hip:gfx942"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Wan 480p, 81 frames: 21 latent frames of 1560 tokens; the widths of the 1.3B and the 14B model
BATCH, FRAMES, TOKENS, ACTIVE = 2, 21, 1560, 9856
LENGTH = FRAMES * TOKENS
CHANNELS = (1536, 5120)


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


def load_kernels() -> Any:
    pack = types.ModuleType("motioncache_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["motioncache_pack"] = pack
    return importlib.import_module("motioncache_pack.kernels")


def calls(channels: int, dtype: torch.dtype) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The variants of every op that production uses; row lists shared by the batch and not."""

    def floats(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def ints(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device="meta")

    def per_token() -> Tensor:
        return floats(LENGTH, dtype=torch.float32)

    x, active = floats(BATCH, LENGTH, channels), floats(BATCH, ACTIVE, channels)
    features = floats(BATCH, FRAMES, TOKENS, channels)
    yield "motion_map", (features, None)
    yield "motion_map", (features, floats(BATCH, TOKENS, channels))
    if channels == CHANNELS[0] and dtype == torch.float32:
        distance = floats(1, dtype=torch.float32)
        # first the uniform phase, then the motion phase
        yield "accumulate_due", (per_token(), ints(LENGTH), distance, None, 1, 0.1, -1.0, 0.0, 0)
        settings = (per_token(), FRAMES, 0.1, 0.5, 0.1, 8)
        yield "accumulate_due", (per_token(), ints(LENGTH), distance, *settings)
        yield "compact_rows", (torch.empty(LENGTH, dtype=torch.uint8, device="meta"),)
    modulation = floats(BATCH, FRAMES, 6 * channels)
    # models run in bf16, so a list for each batch row is compiled for that alone
    for lists in (1, BATCH) if dtype == torch.bfloat16 else (1,):
        rows, inverse = ints(lists, ACTIVE), ints(lists, LENGTH)
        yield "gather_rows", (x, rows, 1)
        yield "gather_rows", (modulation, rows, TOKENS)
        yield "scatter_residual", (x, active, inverse, x, None, None, None)
        yield "scatter_residual", (x, active, inverse, x, x, per_token(), per_token())
        yield "scatter_kv", (active, active, rows, x, x)
    yield "reuse_residual", (x, x, None, None)
    yield "reuse_residual", (x, x, x, per_token())


def run_tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def total(pattern: str, text: str) -> int:
    return sum(int(number) for number in re.findall(pattern, text))


def resources_cuda(compiled: Any, target: GPUTarget) -> dict[str, int]:
    ptx = compiled.asm["ptx"]
    arch = re.search(r"\.target\s+(\w+)", ptx)
    assert arch is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        told = run_tool(
            *(get_ptxas(target.arch).path, "-v", f"--gpu-name={arch[1]}"),
            *(str(source), "-o", f"{folder}/kernel.cubin"),
        )
    return {
        "registers": total(r"Used (\d+) registers", told),
        "spill": total(r"(\d+) bytes spill", told),
        "shared": compiled.metadata.shared,
    }


def resources_hip(compiled: Any, target: GPUTarget) -> dict[str, int]:
    code = compiled.asm["amdgcn"]
    return {
        "registers": total(r"\.vgpr_count:\s*(\d+)", code),
        "spill": total(r"\.vgpr_spill_count:\s*(\d+)", code),
        "shared": compiled.metadata.shared,
    }


def compile_target(kernels: Any, name: str) -> Iterator[dict[str, Any]]:
    backend, arch = name.split(":")
    target = (
        GPUTarget("cuda", int(arch), 32)
        if backend == "cuda"
        else GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)
    )
    triton.runtime.driver.set_active(NamedTarget(target))
    resources = resources_cuda if backend == "cuda" else resources_hip
    package = kernels.triton.BACKEND.package
    launched: list[tuple[JITFunction, Any]] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled = run(self, *args, warmup=True, **kwargs)
        launched.append((self, compiled))
        return compiled

    JITFunction.run = compile_only
    seen: dict[str, JITFunction] = {}
    known: set[str] = set()
    try:
        for kind, dtype in DTYPES.items():
            for channels in CHANNELS:
                for op, arguments in calls(channels, dtype):
                    row = {"target": name, "op": op, "dtype": kind, "channels": channels}
                    launched.clear()
                    try:
                        kernels.registry.implementation(package, op)(*arguments)
                    except Exception as error:
                        yield row | {"error": f"{type(error).__name__}: {error}"[:300]}
                        continue
                    for function, compiled in launched:
                        seen[function.fn.__name__] = function
                        if compiled.hash not in known:
                            known.add(compiled.hash)
                            yield (
                                row
                                | {"kernel": function.fn.__name__, "error": None}
                                | (resources(compiled, target))
                            )
    finally:
        JITFunction.run = run
        for function in seen.values():
            function.device_caches.clear()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kernels = load_kernels()
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for target in options.targets.split(","):
        rows += compile_target(kernels, target)
    seconds = time.perf_counter() - start

    print(f"{'target':12}{'kernel':32}{'dtype':6}{'C':>5}{'regs':>6}{'spill':>6}{'shared':>8}")
    for row in rows:
        if row["error"]:
            print(
                f"{row['target']:12}{row['op']:32}{row['dtype']:6}{row['channels']:5}  failed: "
                f"{row['error']}"
            )
            continue
        print(
            f"{row['target']:12}{row['kernel']:32}{row['dtype']:6}{row['channels']:5}"
            f"{row['registers']:6}{row['spill']:6}{row['shared']:8}"
        )
    failed = sum(row["error"] is not None for row in rows)
    spilled = sum(row.get("spill", 0) > 0 for row in rows)
    print(
        f"triton {triton.__version__}: {len(rows) - failed} binaries, {failed} failures, "
        f"{spilled} with spills, {seconds:.0f} s"
    )
    if options.json:
        options.json.write_text(
            json.dumps({"triton": triton.__version__, "kernels": rows}, indent=1)
        )
    return 1 if failed or spilled or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
