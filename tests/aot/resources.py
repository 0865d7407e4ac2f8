"""What a compiled kernel needs of a GPU, read off its assembly, and how many run side by side.

Limits: CUDA Programming Guide, "Compute Capabilities", and the rounding of Nsight Compute's
occupancy calculator; for AMD, LLVM's `llvm-calc-occupancy`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor.

    Attributes:
        warps: that can be resident.
        blocks: likewise.
        shared: bytes of shared memory.
    """

    warps: int
    blocks: int
    shared: int


CUDA = {
    "75": Limits(32, 16, 64 << 10),
    "80": Limits(64, 32, 164 << 10),
    "86": Limits(48, 16, 100 << 10),
    "89": Limits(48, 24, 100 << 10),
    "90": Limits(64, 32, 228 << 10),
    "100": Limits(64, 32, 228 << 10),
    "103": Limits(64, 32, 228 << 10),
    "120": Limits(48, 24, 100 << 10),
    "121": Limits(48, 24, 100 << 10),
}
# of each of a multiprocessor's 4 parts
REGISTERS = 16384
REGISTER_UNIT = 256
SHARED_UNIT = 128
SHARED_RESERVED = 1024

# a compute unit: 4 SIMDs of 512 vector registers a lane, at most 8 waves each
HIP = {"gfx90a": 64 << 10, "gfx942": 64 << 10, "gfx950": 160 << 10}
HIP_REGISTERS, HIP_REGISTER_UNIT, HIP_WAVES, HIP_SIMDS = 512, 8, 8, 4


def occupancy(target: str, registers: int, shared: int, warps: int) -> float | None:
    """Share of the warps that a multiprocessor can hold which are resident, if it is filled with
    this kernel; None where the limits are not known.

    Args:
        target: "cuda:90", "hip:gfx942".
        registers: of a thread.
        shared: bytes of a block.
        warps: of a block.
    """
    backend, arch = target.split(":")
    if backend == "hip":
        if arch not in HIP:
            return None
        rounded = _up(max(registers, 1), HIP_REGISTER_UNIT)
        waves = min(HIP_WAVES, HIP_REGISTERS // rounded) * HIP_SIMDS
        blocks = waves // warps
        if shared:
            blocks = min(blocks, HIP[arch] // shared)
        return blocks * warps / (HIP_WAVES * HIP_SIMDS)
    limits = CUDA.get(arch)
    if limits is None:
        return None
    # a warp's registers come out of one part, and parts get equal numbers of warps
    resident = REGISTERS // _up(max(registers, 1) * 32, REGISTER_UNIT) * 4
    reserved = SHARED_RESERVED if int(arch) >= 80 else 0
    blocks = min(limits.blocks, limits.warps // warps, resident // warps)
    taken = _up(shared + reserved, SHARED_UNIT)
    if taken:
        blocks = min(blocks, limits.shared // taken)
    return blocks * warps / limits.warps


def resources(target: str, compiled: Any) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory, occupancy and the widths of global memory accesses.

    Args:
        compiled: what a warm-up of a Triton kernel gives.
    """
    backend, arch = target.split(":")
    code = compiled.asm["ptx" if backend == "cuda" else "amdgcn"]
    read = _ptxas if backend == "cuda" else _amdgcn
    found = read(code, arch)
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    loads, stores = accesses(code, backend)
    return {
        **found,
        "shared": shared,
        "warps": warps,
        "occupancy": occupancy(target, found["registers"], shared, warps),
        "loads": loads,
        "stores": stores,
    }


def _ptxas(ptx: str, arch: str) -> dict[str, int]:
    from triton.backends.nvidia.compiler import get_ptxas

    name = re.search(r"\.target\s+(\w+)", ptx)
    assert name is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = (get_ptxas(int(arch)).path, "-v", f"--gpu-name={name[1]}", str(source))
        done = subprocess.run(
            (*command, "-o", f"{folder}/kernel.cubin"), capture_output=True, text=True, check=True
        )
    told = done.stdout + done.stderr
    return {
        "registers": total(r"Used (\d+) registers", told),
        "spill": total(r"(\d+) bytes spill", told),
    }


def _amdgcn(code: str, arch: str) -> dict[str, int]:
    return {
        "registers": total(r"\.vgpr_count:\s*(\d+)", code),
        "spill": total(r"\.vgpr_spill_count:\s*(\d+)", code),
    }


def total(pattern: str, text: str) -> int:
    """Sum of the numbers that a pattern finds."""
    return sum(int(number) for number in re.findall(pattern, text))


_PTX = re.compile(r"\b(ld|st)\.global(?:\.[A-Za-z_]\w*(?:::\w+)*)*?(?:\.v(\d))?\.[a-z](\d+)\s")
_HIP = re.compile(r"\b(?:global|buffer|flat)_(load|store)_(\w+)")
_HIP_BYTES = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}


def accesses(code: str, backend: str) -> tuple[dict[str, int], dict[str, int]]:
    """How many global loads, and stores, have how many bytes a thread; 16 is a full vector."""
    found: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    if backend == "cuda":
        for kind, width, bits in _PTX.findall(code):
            found["load" if kind == "ld" else "store"][int(width or 1) * int(bits) // 8] += 1
    else:
        for kind, size in _HIP.findall(code):
            narrow = 1 if "byte" in size else 2
            found[kind][_HIP_BYTES.get(size, narrow)] += 1
    loads, stores = (
        {str(size): count for size, count in sorted(found[kind].items(), reverse=True)}
        for kind in ("load", "store")
    )
    return loads, stores


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
