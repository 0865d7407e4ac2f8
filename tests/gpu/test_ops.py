"""Every op on the device: Triton against the reference there and on the CPU."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.tests.bench.kernel_cases import CASES, E4M3, Sizes
from motioncache_pack.tests.gpu.support import agree, copied, guarded_results, results, same

pytestmark = pytest.mark.gpu

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
dtypes = pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=["bf16", "fp16", "fp32"])
labels = pytest.mark.parametrize("label", CASES)

# what is not said: fp32, head width 64, one list for all batch rows, no padding
ODD = {
    "one token": Sizes("cpu", FP32, 1, 1, 1, 64, 1, 64),
    "all rows": Sizes("cpu", FP32, 2, 3, 21, 64, 63, 32),
    "no row": Sizes("cpu", FP32, 2, 3, 21, 64, 0, 64),
    "one row, heads of 96": Sizes("cpu", FP32, 1, 2, 37, 192, 1, 96),
    "a list each, padded": Sizes("cpu", FP32, 3, 5, 13, 320, 29, 64, lists=3, padding=5),
    "padding only": Sizes("cpu", FP32, 2, 2, 9, 64, 7, 64, padding=7),
    "over a block of tokens": Sizes("cpu", FP32, 1, 7, 293, 64, 1025, 64),
    "wide rows": Sizes("cpu", FP32, 1, 2, 17, 13824, 11, 128),
}
# a quarter of a frame of 832x480: 8190 tokens are no multiple of 16
WIDTHS = {"1.3b": 1536, "14b": 5120}


def wan(width: int, dtype: torch.dtype, device: str, frames: int = 21, tokens: int = 390) -> Sizes:
    """Sizes of a clip, a third of its rows active; a CPU gets a snippet of it."""
    if device == "cpu":
        return Sizes(device, dtype, 1, 3, 7, width, 8)
    return Sizes(device, dtype, 2, frames, tokens, width, frames * tokens // 384 * 128)


@labels
@dtypes
@pytest.mark.parametrize("odd", ODD)
def test_odd_sizes(label, dtype, odd, device, fast):
    case = CASES[label](replace(ODD[odd], device=device, dtype=dtype))
    given = case.make()
    wanted = results("reference", case, copied(given, device))
    on_cpu = results("reference", case, copied(given, "cpu"))
    got = guarded_results(fast, case, given)
    agree(wanted, got)
    agree(on_cpu, got)


@labels
@dtypes
@pytest.mark.parametrize("width", WIDTHS)
def test_widths_of_wan_twenty_times(label, dtype, width, device, fast):
    for _ in range(20 if device == "cuda" else 2):
        case = CASES[label](wan(WIDTHS[width], dtype, device))
        given = case.make()
        wanted = results("reference", case, copied(given, device))
        got = guarded_results(fast, case, copied(given, device))
        agree(wanted, got)
        # the same input gives the same bits, or programs race
        for index, pair in enumerate(zip(got, results(fast, case, given), strict=True)):
            same(*pair, f"tensor {index}, run twice")


@labels
@pytest.mark.parametrize("width", WIDTHS)
def test_a_whole_clip_of_wan(label, width, device, fast):
    case = CASES[label](wan(WIDTHS[width], BF16, device, tokens=1560))
    given = case.make()
    wanted = results("reference", case, copied(given, device))
    agree(wanted, guarded_results(fast, case, given))


@labels
def test_the_cpu_agrees_at_a_width_of_wan(label, device, fast):
    case = CASES[label](wan(WIDTHS["1.3b"], BF16, device, frames=5))
    given = case.make()
    agree(results("reference", case, copied(given, "cpu")), results(fast, case, given))


@labels
def test_opcheck(label, device, fast):
    case = CASES[label](replace(ODD["all rows"], device=device))
    bound = inspect.signature(getattr(kernels, case.op)).bind(*case.make(), **case.named)
    bound.apply_defaults()
    op, given = getattr(torch.ops.motioncache, case.op).default, tuple(bound.arguments.values())
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    # the schema check compares tensors in a way that torch lacks for fp8
    if not any(isinstance(v, torch.Tensor) and v.dtype == E4M3 for v in given):
        checks.append("test_schema")
    torch.library.opcheck(op, given, test_utils=checks)
