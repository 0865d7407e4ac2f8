"""Keys and values of rows that are not computed, carried on along their slope over sigma."""

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.cache.kv_blocks.block import TierResources
from motioncache_pack.motioncache_core.cache.kv_store import Finished, KVStore
from motioncache_pack.motioncache_core.cache.kv_tiers import KVTiers
from motioncache_pack.motioncache_core.cache.row_update import RowUpdate, RowUpdates
from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

BATCH, ROWS, WIDTH, HEADS = 2, 7, 12, 3
LEVELS = (1.0, 0.9, 0.75)
ACTIVE = [1, 2, 6]
places = pytest.mark.parametrize("place_", ["gpu", "gpu_fp8"])


class Line:
    """Keys and values that change with sigma at a constant rate, another one for each row."""

    def __init__(self, rows=ROWS):
        rng = torch.Generator().manual_seed(5)
        self.start, self.rate = torch.randn(2, 2, BATCH, rows, WIDTH, generator=rng)

    def at(self, level):
        k, v = self.start + self.rate * level
        return k.clone(), v.clone()


def step(rows, levels, batch=slice(None), gain=1.0):
    """Rows to compute at the last of two or more levels; all were computed at the one before."""
    ahead = levels[-1] - levels[-2]
    inverse = torch.full((1, ROWS), -1, dtype=torch.int32)
    inverse[0, rows] = torch.arange(len(rows), dtype=torch.int32)
    return RowUpdate(
        batch, inverse, torch.full((ROWS,), gain * ahead), torch.full((ROWS,), 1 / ahead)
    )


def filled(line, place_="gpu", forecast_=True):
    """A store after full evaluations at the first two levels."""
    kv = KVStore(1, KVTiers(TierResources(HEADS, ops), [place_], forecast=forecast_))
    kv.put(0, *line.at(LEVELS[0]))
    kv.begin_dense()
    kv.put(0, *line.at(LEVELS[1]), RowUpdates([step(range(ROWS), LEVELS[:2])]))
    return kv


def listed(rows):
    return torch.tensor([rows], dtype=torch.int32)


def some(pair, rows):
    return [t[:, rows].contiguous() for t in pair]


def apart(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


@places
def test_what_changes_at_a_constant_rate_is_forecast_exactly(place_):
    line = Line()
    kv, wanted = filled(line, place_), line.at(LEVELS[2])
    stale = line.at(LEVELS[1])
    got = kv.update(
        0, *some(wanted, ACTIVE), listed(ACTIVE), ROWS, RowUpdates([step(ACTIVE, LEVELS)])
    )
    for name, g, w, s in zip("kv", got, wanted, stale, strict=True):
        assert torch.equal(g[:, ACTIVE], w[:, ACTIVE])
        if place_ == "gpu":
            assert_close(name, w, g)
        else:
            assert apart(g, w) < 0.3 * apart(s, w)


@places
def test_what_is_stored_stays_as_it_was_computed(place_):
    line = Line()
    kv = filled(line, place_)
    before = [t.clone() for t in kv.entries[0].read(ROWS)]
    new = some(line.at(LEVELS[2]), ACTIVE)
    kv.update(0, *new, listed(ACTIVE), ROWS, RowUpdates([step(ACTIVE, LEVELS)]))
    resting = [i for i in range(ROWS) if i not in ACTIVE]
    for held, was, fresh in zip(kv.entries[0].read(ROWS), before, new, strict=True):
        assert torch.equal(held[:, resting], was[:, resting])
        assert apart(held[:, ACTIVE], fresh) < (1e-9 if place_ == "gpu" else 0.04)


def test_a_partial_evaluation_learns_the_slopes_of_its_rows():
    line, bent = Line(), Line()
    bent.rate = 2 * bent.rate
    kv = filled(line)
    # from here on twice as fast
    bent.start = line.start + (line.rate - bent.rate) * LEVELS[1]
    kv.update(
        0,
        *some(bent.at(LEVELS[2]), ACTIVE),
        listed(ACTIVE),
        ROWS,
        RowUpdates([step(ACTIVE, LEVELS)]),
    )
    for rates, wanted, before in zip(kv.slopes[0].read(ROWS), bent.rate, line.rate, strict=True):
        assert_close("learned", wanted[:, ACTIVE], rates[:, ACTIVE])
        assert_close("as it was", before[:, [0, 3, 4, 5]], rates[:, [0, 3, 4, 5]])


def test_batch_rows_follow_their_own_steps():
    line = Line()
    kv, wanted = filled(line), line.at(LEVELS[2])
    steps = RowUpdates([step([1, 2], LEVELS, slice(0, 1)), step([], LEVELS, slice(1, 2), gain=0.0)])
    rows = torch.tensor([[1, 2], [-1, -1]], dtype=torch.int32)
    got = kv.update(0, *some(wanted, [1, 2]), rows, ROWS, steps)
    for g, w, stale in zip(got, wanted, line.at(LEVELS[1]), strict=True):
        assert_close("carried on", w[:1], g[:1])
        assert_close("left", stale[1:], g[1:])


def test_a_block_that_was_passed_over_learns_nothing():
    line = Line()
    kv = filled(line)
    kv.begin_dense()
    kv.begin_dense()
    kv.put(0, *line.at(LEVELS[2]), RowUpdates([step(range(ROWS), LEVELS)]))
    assert all(not t.any() for t in kv.slopes[0].tensors)


def test_without_a_step_rows_stay_stale():
    line = Line()
    kv, new = filled(line), some(line.at(LEVELS[2]), ACTIVE)
    got = kv.update(0, *new, listed(ACTIVE), ROWS)
    plain = filled(line, forecast_=False).update(0, *new, listed(ACTIVE), ROWS)
    for g, w in zip(got, plain, strict=True):
        assert_same("keys or values", w, g)


@places
def test_compressed_rows_are_not_forecast_and_the_others_keep_their_places(place_):
    line = Line()
    kv, wanted = filled(line, place_), line.at(LEVELS[2])
    # the clip's first 3 rows become 2
    rng = torch.Generator().manual_seed(1)
    kv.compress(0, torch.randn(BATCH, 2, WIDTH, generator=rng), 3, 2, HEADS)
    assert kv.finished[0] == Finished(3, 2)
    front = [t[:, :2].clone() for t in kv.entries[0].read(6)]
    got = kv.update(0, *some(wanted, [6]), listed([5]), 6, RowUpdates([step([6], LEVELS)]))
    for g, w, f, stale in zip(got, wanted, front, line.at(LEVELS[1]), strict=True):
        assert torch.equal(g[:, :2], f)
        assert torch.equal(g[:, 5], w[:, 6])
        error = apart(g[:, 2:5], w[:, 3:6])
        assert error < (1e-6 if place_ == "gpu" else 0.5 * apart(stale[:, 3:6], w[:, 3:6]))


@places
def test_rows_that_join_have_no_slope_and_those_that_leave_take_theirs(place_):
    line = Line()
    kv = filled(line, place_)
    rates = [t.clone() for t in kv.slopes[0].read(ROWS)]
    kv.slide(2, keep=False)
    kv.grow(0, line.at(1.0)[0], ROWS)
    for now, before in zip(kv.slopes[0].read(ROWS), rates, strict=True):
        assert torch.equal(now[:, :5], before[:, 2:])
        assert not now[:, 5:].any()


@places
def test_branches_that_part_and_meet_again_keep_their_slopes(place_):
    kv = filled(Line(), place_)
    rates = [t.clone() for t in kv.slopes[0].read(ROWS)]
    parts = [kv.rows(slice(i, i + 1)) for i in range(BATCH)]
    joined = KVStore.join(parts[::-1])
    for now, before in zip(joined.slopes[0].read(ROWS), rates, strict=True):
        assert torch.equal(now, before.flip(0))


@places
@pytest.mark.parametrize("what", ["learn", "carry_on"])
def test_out_of_memory_drops_the_slopes_first_and_the_work_is_done_again(monkeypatch, place_, what):
    line = Line()
    new = some(line.at(LEVELS[2]), ACTIVE)
    op = "store_residual" if what == "learn" else "scatter_residual"
    scarce, calls = getattr(ops, op), []

    def once(*args):
        # the second one: keys are done by then, and values are not
        calls.append(op)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("simulated")
        return scarce(*args)

    monkeypatch.setattr(ops, op, once)
    kv = filled(line, place_)
    got = kv.update(0, *new, listed(ACTIVE), ROWS, RowUpdates([step(ACTIVE, LEVELS)]))
    assert not kv.tiers.forecast
    assert (kv.slopes, kv.tiers.tiers, kv.tiers.lost) == ({}, [place_], False)
    assert kv.tiers.notes == [because("kv_forecast_lost", block=0)]
    wanted = filled(line, place_, forecast_=False).update(0, *new, listed(ACTIVE), ROWS)
    for g, w in zip(got, wanted, strict=True):
        assert_same("keys or values", w, g)


def test_slopes_are_the_first_to_make_room_for_the_model():
    kv = filled(Line())
    both = kv.nbytes()[0]
    assert kv.make_room()
    assert (kv.nbytes()[0], kv.tiers.tiers) == (both // 2, ["gpu"])
    assert kv.make_room()
    assert kv.tiers.tiers == ["gpu_fp8"]
    # nothing was learned yet
    kv = KVStore(1, KVTiers(TierResources(HEADS, ops), ["gpu"], forecast=True))
    kv.put(0, *Line().at(1.0))
    kv.slopes.clear()
    assert kv.make_room()
    assert kv.tiers.tiers == ["gpu_fp8"]
