"""What a partial call hands to its blocks beside the tokens is gathered once."""

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.engine.call_plan import active_frames
from motioncache_pack.motioncache_core.models.block_stream import RowGather
from motioncache_pack.motioncache_core.models.wan import WAN
from torch import Tensor

FRAMES, SPATIAL, WIDTH, BLOCKS = 4, 3, 5, 3
TOKENS = FRAMES * SPATIAL


class CountedOps:
    """The kernels, and the names of what each gather was given."""

    def __init__(self) -> None:
        self.gathers: list[list[str]] = []

    def __getattr__(self, name):
        return getattr(kernels, name)

    def gather_rows(self, x, rows, rotary=None, modulation=None, *, divisor=1):
        given = {"x": x, "rotary": rotary, "modulation": modulation}
        self.gathers.append([name for name, tensor in given.items() if tensor is not None])
        return kernels.gather_rows(x, rows, rotary, modulation, divisor=divisor)


def handed_over(rows: Tensor, sides, frames=None):
    """The arguments of each block of one partial call, and its gathers."""
    ops = CountedOps()
    gather = RowGather(ops, rows, TOKENS, frames)
    (run,) = WAN.runs
    x = torch.randn(2, TOKENS, WIDTH)
    seen = []
    for i, (pe, vec) in enumerate(sides):
        hand_over, tokens = (run.take, seen[-1]["img"]) if i else (run.enter, x)
        seen.append(hand_over({"img": tokens, "pe": pe, "vec": vec}, gather))
    return x, seen, ops.gathers


def tables():
    return torch.randn(1, TOKENS, 1, 2, 2), torch.randn(2, FRAMES, 6, WIDTH)


@pytest.mark.parametrize("rows", [[[0, 4, 11]], [[0, 4, 11], [5, -1, -1]]], ids=["one", "each"])
def test_one_pass_serves_all_blocks(rows):
    pe, vec = tables()
    rows = torch.tensor(rows, dtype=torch.int32)
    x, seen, gathers = handed_over(rows, [(pe, vec)] * BLOCKS)
    assert gathers == [["x", "rotary", "modulation"]]
    for b in range(2):
        for j, row in enumerate(rows[b % len(rows)].tolist()):
            for args in seen:
                assert args["img"].shape == (2, 3, WIDTH)
                expected = 0 * x[b, 0] if row < 0 else x[b, row]
                assert torch.equal(args["img"][b, j], expected)
                table = args["pe"][b % len(args["pe"]), j]
                assert torch.equal(table, 0 * pe[0, 0] if row < 0 else pe[0, row])
                expected = 0 * vec[b, 0] if row < 0 else vec[b, row // SPATIAL]
                assert torch.equal(args["vec"][b, j], expected)


def test_another_table_is_gathered_for_itself():
    (pe, vec), (other_pe, other_vec) = tables(), tables()
    rows = torch.tensor([[3, 8, -1]], dtype=torch.int32)
    sides = [(pe, vec), (other_pe, other_vec), (other_pe, other_vec)]
    _, seen, gathers = handed_over(rows, sides)
    assert gathers == [["x", "rotary", "modulation"], ["x"], ["x"]]
    assert torch.equal(seen[0]["vec"], torch.stack((vec[:, 1], vec[:, 2], 0 * vec[:, 0]), 1))
    for args in seen[1:]:
        expected = torch.stack((other_pe[:, 3], other_pe[:, 8], 0 * other_pe[:, 0]), 1)
        assert torch.equal(args["pe"], expected)
        expected = torch.stack((other_vec[:, 1], other_vec[:, 2], 0 * other_vec[:, 0]), 1)
        assert torch.equal(args["vec"], expected)


@pytest.mark.parametrize("shape", [(2, 1, 6, WIDTH), (2, 6, WIDTH)], ids=str)
def test_one_timestep_needs_no_rows(shape):
    pe, _ = tables()
    vec = torch.randn(shape)
    _, seen, gathers = handed_over(torch.tensor([[1]], dtype=torch.int32), [(pe, vec)] * 2)
    assert gathers == [["x", "rotary"]]
    assert all(args["vec"] is vec for args in seen)


@pytest.mark.parametrize(
    ("frames", "numbers"), [((slice(1, 3),), [1, 2]), ((slice(0, 1), slice(3, 4)), [0, 3])]
)
def test_whole_frames_take_their_own_modulation(frames, numbers):
    pe, vec = tables()
    rows = torch.tensor([[f * SPATIAL + s for f in numbers for s in range(SPATIAL)]])
    _, seen, gathers = handed_over(rows.to(torch.int32), [(pe, vec)] * BLOCKS, frames)
    assert gathers == [["x", "rotary"]]
    assert torch.equal(seen[0]["vec"], vec[:, numbers]) and seen[0]["vec"].is_contiguous()
    assert all(args["vec"] is seen[0]["vec"] for args in seen)


@pytest.mark.parametrize(
    ("computed", "ranges"),
    [
        ([9, 0, 6], (slice(0, 3), slice(4, 6))),
        ([9, 3, 0], (slice(0, 4),)),
        ([0, 3, 6], (slice(3, 6),)),
        ([0, 0, 0], ()),
    ],
)
def test_frames_of_neighbouring_chunks_are_one_range(computed, ranges):
    layout = TokenLayout(6, 1, 3, (3, 1, 2))
    assert active_frames(layout, computed) == ranges
