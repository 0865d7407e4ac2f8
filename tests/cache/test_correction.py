"""What computed tokens tell those that are not computed."""

import itertools
import math

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.cache import correction as module
from motioncache_pack.motioncache_core.cache.correction import correction, features
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.settings import MotionCacheSettings

LAYOUTS = {
    "one chunk": (TokenLayout(5, 3, 4), (17,)),
    "part of one of three": (TokenLayout(7, 2, 3, (2, 3, 2)), (0, 7, 12)),
    "part of two": (TokenLayout(5, 2, 5, (2, 3)), (11, 4)),
    "one row": (TokenLayout(6, 1, 1), (3,)),
}
PLAIN = MotionCacheSettings(dense_last=False, max_stale_steps=0, kv_cache="gpu")


def drawn(layout, active, seed):
    """Random active tokens, as many in each chunk as it says."""
    rng = torch.Generator().manual_seed(seed)
    rows = [
        span.start + torch.randperm(span.stop - span.start, generator=rng)[:n]
        for span, n in zip(layout.chunk_rows(), active, strict=True)
    ]
    rows = torch.cat(rows).sort().values.to(torch.int32)
    inverse = torch.full((1, layout.tokens), -1, dtype=torch.int32)
    inverse[0, rows.long()] = torch.arange(len(rows), dtype=torch.int32)
    fresh = torch.rand(layout.tokens, generator=rng) < 0.7
    return rows, inverse, fresh


def around(layout, target, inverse, fresh):
    """Places of those that correct a token and what their places count, by the definition."""
    chunk = next(
        s
        for s in layout.chunk_frames()
        if s.start * layout.spatial <= target < s.stop * layout.spatial
    )
    f, y, x = layout.position(target)
    found = {}
    for df, dy, dx in itertools.product((-2, -1, 0, 1, 2), (-1, 0, 1), (-1, 0, 1)):
        at = f + df, y + dy, x + dx
        if not (chunk.start <= at[0] < chunk.stop):
            continue
        if not (0 <= at[1] < layout.height and 0 <= at[2] < layout.width):
            continue
        row = layout.row(*at)
        if inverse[0, row] >= 0 and fresh[row]:
            found[int(inverse[0, row])] = 0.5 * abs(df) + abs(dy) + abs(dx)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_those_that_are_not_computed_hear_fresh_neighbours_of_their_chunk(name):
    layout, active = LAYOUTS[name]
    rows, inverse, fresh = drawn(layout, active, 3)
    rate = torch.rand(layout.tokens) + 1
    told = correction(layout, active, inverse, rate, fresh, 1.0, ops)
    wanted = [
        row
        for span, n in zip(layout.chunk_rows(), active, strict=True)
        for row in range(span.start, span.stop)
        if 0 < n < span.stop - span.start and inverse[0, row] < 0
    ]
    assert told.targets.tolist() == wanted
    for target, sources in zip(wanted, told.sources, strict=True):
        known = sources >= 0
        got = dict(zip(sources[known].tolist(), told.distance[known].tolist(), strict=True))
        assert got == around(layout, target, inverse, fresh)
    # places behind the computed ones, and no slope
    assert told.inverse[0, wanted].tolist() == [len(rows) + i for i in range(len(wanted))]
    assert torch.equal(told.inverse[0, rows.long()], inverse[0, rows.long()])
    others = [i for i in range(layout.tokens) if i not in wanted]
    assert not told.inverse_interval[wanted].any()
    assert torch.equal(told.inverse_interval[others], rate[others])


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_are_a_softmax_over_likeness_and_distance(name):
    layout, active = LAYOUTS[name]
    rows, inverse, fresh = drawn(layout, active, 4)
    told = correction(layout, active, inverse, torch.ones(layout.tokens), fresh, 0.75, ops)
    alike = torch.randn(2, layout.tokens, module.FEATURES)
    got = told.weights(alike, rows)
    centred = alike - alike.mean(1, keepdim=True)
    for b, (i, target) in itertools.product(range(2), enumerate(told.targets.tolist())):
        near = around(layout, target, inverse, fresh)
        scores = {
            place: torch.cosine_similarity(centred[b, target], centred[b, rows[place]], dim=0) / 0.2
            - distance
            for place, distance in near.items()
        }
        total = sum(math.exp(s) for s in scores.values())
        for k, place in enumerate(told.sources[i].tolist()):
            wanted = 0.75 * math.exp(scores[place]) / total if place >= 0 else 0.0
            assert abs(float(got[b, i, k]) - wanted) < 1e-5


def test_where_no_chunk_is_computed_in_part_there_is_nothing_to_tell():
    layout = TokenLayout(5, 2, 2, (2, 3))
    for active in ((0, 12), (8, 12), (8, 0)):
        _, inverse, fresh = drawn(layout, active, 1)
        assert correction(layout, active, inverse, torch.ones(20), fresh, 1.0, ops) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_keep_the_cosine_of_rows_of_any_size(dtype):
    # the sum over a row of these does not fit into half precision
    x = (torch.randn(1, 5000, 640) * 300).to(dtype)
    got = features(x)
    assert got.dtype == torch.float32 and got.shape == (1, 5000, module.FEATURES)
    assert got.isfinite().all()
    true = torch.cosine_similarity(x[0, :1].double(), x[0, 1:].double())
    seen = torch.cosine_similarity(got[0, :1], got[0, 1:])
    assert float((seen - true).abs().mean()) < 0.2
    near = x + 0.05 * torch.randn_like(x) * 300
    assert float(torch.cosine_similarity(got[0], features(near)[0]).min()) > 0.95


def test_what_is_no_number_stays_none():
    layout, active = LAYOUTS["one chunk"]
    rows, inverse, fresh = drawn(layout, active, 4)
    told = correction(layout, active, inverse, torch.ones(layout.tokens), fresh, 1.0, ops)
    alike = torch.randn(1, layout.tokens, module.FEATURES)
    alike[0, 0] = float("nan")
    known = (told.sources >= 0).any(dim=1)
    got = told.weights(alike, rows)
    assert known.any() and got[:, known].isnan().any(dim=-1).all()
    assert not got[:, ~known].any()
