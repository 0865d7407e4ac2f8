"""Launch every Triton kernel once at odd sizes, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 1 python tests/gpu/sanitize.py

Also with `--tool racecheck` and `--tool synccheck`; `make sanitize` runs all three. Torch takes
each tensor from the driver here, so that a byte beside one belongs to nobody.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

# read when torch takes its first memory
os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from common import load_pack

load_pack()

from motioncache_pack import kernels  # noqa: E402
from motioncache_pack.tests.kernels.cases import CASES, Sizes  # noqa: E402

SIZES = (
    Sizes("cuda", torch.bfloat16, 1, 1, 1, 64, 1, 64),
    Sizes("cuda", torch.float32, 2, 3, 21, 192, 17, 96),
    Sizes("cuda", torch.bfloat16, 3, 5, 13, 320, 29, 64, lists=3, padding=5),
    Sizes("cuda", torch.float16, 1, 7, 293, 128, 1025, 64),
    Sizes("cuda", torch.bfloat16, 2, 2, 17, 1536, 11),
    Sizes("cuda", torch.bfloat16, 1, 2, 17, 5120, 11),
)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not kernels.triton.interpreting():
        sys.exit("no CUDA device: there is nothing to watch")
    for label, make in CASES.items():
        for sizes in SIZES:
            case = make(replace(sizes, device=device))
            with kernels.use_backend("triton"):
                getattr(kernels, case.op)(*case.make(), **case.named)
            if device == "cuda":
                torch.cuda.synchronize()
        print(f"{label}: launched at {len(SIZES)} sizes on {device}", flush=True)


if __name__ == "__main__":
    main()
