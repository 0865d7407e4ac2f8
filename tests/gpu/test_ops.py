"""Every op on the device: Triton against the reference there and on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motioncache_pack.tests.gpu.support import agree, copied, guarded_results, results, same
from motioncache_pack.tests.kernels.cases import CASES, E4M3, Sizes

pytestmark = pytest.mark.gpu

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
labels = pytest.mark.parametrize("label", CASES)

# what is not said: head width 64, one list for all batch rows, no padding; each takes a dtype
ODD = {
    "one token": Sizes("cpu", DTYPES[0], 1, 1, 1, 64, 1, 64),
    "all rows": Sizes("cpu", DTYPES[0], 2, 3, 21, 64, 63, 32),
    "no row": Sizes("cpu", DTYPES[0], 2, 3, 21, 64, 0, 64),
    "one row, heads of 96": Sizes("cpu", DTYPES[0], 1, 2, 37, 192, 1, 96),
    "a list each, padded": Sizes("cpu", DTYPES[0], 3, 5, 13, 320, 29, 64, lists=3, padding=5),
    "padding only": Sizes("cpu", DTYPES[0], 2, 2, 9, 64, 7, 64, padding=7),
    "over a block of tokens": Sizes("cpu", DTYPES[0], 1, 7, 293, 64, 1025, 64),
    "wide rows": Sizes("cpu", DTYPES[0], 1, 2, 17, 13824, 11, 128),
}
# a quarter of a frame of 832x480: 8190 tokens are no multiple of 16
WIDTHS = {"1.3b": 1536, "14b": 5120}


def turn(label: str, step: int) -> torch.dtype:
    """A dtype for a step of a case: each case meets all, and each step meets all over the cases."""
    return DTYPES[(list(CASES).index(label) + step) % len(DTYPES)]


def wan(width: int, dtype: torch.dtype, device: str, frames: int = 21, tokens: int = 390) -> Sizes:
    """Sizes of a clip, a third of its rows active; a CPU gets a snippet of it."""
    if device == "cpu":
        return Sizes(device, dtype, 1, 3, 7, width, 8)
    return Sizes(device, dtype, 2, frames, tokens, width, frames * tokens // 384 * 128)


@labels
def test_odd_sizes(label, device, fast):
    for step, (name, sizes) in enumerate(ODD.items()):
        case = CASES[label](replace(sizes, device=device, dtype=turn(label, step)))
        given = case.make()
        wanted = results("reference", case, copied(given, device))
        on_cpu = results("reference", case, copied(given, "cpu"))
        got = guarded_results(fast, case, given)
        agree(wanted, got, name)
        agree(on_cpu, got, name)


@labels
@pytest.mark.parametrize("width", WIDTHS)
def test_widths_of_wan_twenty_times(label, width, device, fast):
    for step in range(20 if device == "cuda" else 2):
        case = CASES[label](wan(WIDTHS[width], turn(label, step), device))
        given = case.make()
        wanted = results("reference", case, copied(given, device))
        got = guarded_results(fast, case, copied(given, device))
        agree(wanted, got, f"run {step}")
        # the same input gives the same bits, or programs race
        for index, pair in enumerate(zip(got, results(fast, case, given), strict=True)):
            same(*pair, f"run {step}, tensor {index}, run twice")


@labels
def test_a_whole_clip_of_wan(label, device, fast):
    for width in WIDTHS.values():
        case = CASES[label](wan(width, torch.bfloat16, device, tokens=1560))
        given = case.make()
        wanted = results("reference", case, copied(given, device))
        agree(wanted, guarded_results(fast, case, given), f"{width} channels")
    case = CASES[label](wan(WIDTHS["1.3b"], torch.bfloat16, device, frames=5))
    given = case.make()
    agree(results("reference", case, copied(given, "cpu")), results(fast, case, given), "CPU")


@labels
def test_opcheck(label, device, fast):
    case = CASES[label](replace(ODD["all rows"], device=device, dtype=torch.float32))
    op, given = getattr(torch.ops.motioncache, case.op).default, case.arguments()
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    # the schema check compares tensors in a way that torch lacks for fp8
    if not any(isinstance(v, torch.Tensor) and v.dtype == E4M3 for v in given):
        checks.append("test_schema")
    torch.library.opcheck(op, given, test_utils=checks)
