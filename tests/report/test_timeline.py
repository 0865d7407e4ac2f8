"""The timeline's cells are the trace's decisions, counted again."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core.report.timeline import (
    BACK,
    REUSED,
    cells,
    shade,
    size,
    timeline,
)
from motioncache_pack.motioncache_core.report.trace import ChunkRecord, EvaluationRecord, Trace

DENSE, QUARTER, REUSE = (
    ChunkRecord("dense", "motion", 12, 12, 0.1),
    ChunkRecord("partial", "motion", 3, 12, 0.1),
    ChunkRecord("reuse", "motion", 0, 12, 0.1),
)
WAITING = ChunkRecord("reuse", "unstarted", 0, 12, None)


def run(*columns, scope="all branches", first_chunk=0):
    trace = Trace({})
    for i, chunks in enumerate(columns):
        record = EvaluationRecord(i, 1.0, scope, chunks, first_chunk=first_chunk)
        trace.evaluations.append(record)
    return trace


@pytest.fixture
def trace():
    return run((DENSE, WAITING), (QUARTER, DENSE), (REUSE, QUARTER), (DENSE, REUSE))


def test_the_picture_has_the_cells_colours(trace):
    picture = timeline(trace, cell=16)
    assert picture.shape == (1, 2 * 48, 4 * 16, 3)
    assert 0 <= picture.min() < picture.max() <= 1
    wanted = [
        [shade(1.0), shade(0.25), REUSED, shade(1.0)],
        [BACK, shade(1.0), shade(0.25), REUSED],
    ]
    for row in range(2):
        for column in range(4):
            cell = picture[0, row * 48 : row * 48 + 46, column * 16 : column * 16 + 14]
            assert torch.equal(cell, torch.tensor(wanted[row][column]).expand_as(cell))
    # the gaps
    assert torch.equal(picture[0, 46:48], torch.tensor(BACK).expand(2, 64, 3))


@pytest.mark.parametrize("seed", range(2))
def test_the_pictures_cells_count_as_the_trace(seed):
    """Cells are counted off the picture's pixels."""
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 6)), int(rng.integers(5, 40))
    kinds = (DENSE, QUARTER, REUSE, WAITING)
    trace = run(*(tuple(kinds[i] for i in rng.integers(0, 4, rows)) for _ in range(columns)))
    pixels = timeline(trace, cell=8, height=10)[0, ::10, ::8].reshape(-1, 3)
    names = {shade(1.0): "dense", shade(0.25): "partial", REUSED: "reuse", BACK: "none"}
    near = [next(n for c, n in names.items() if torch.allclose(p, torch.tensor(c))) for p in pixels]
    wanted = Counter("none" if c.idle else c.kind for e in trace.evaluations for c in e.chunks)
    assert Counter(near) == wanted


def test_a_window_has_its_own_rows_and_one_scope_is_shown():
    trace = run((DENSE, DENSE))
    trace.evaluations += run((QUARTER,), first_chunk=2).evaluations
    trace.evaluations += run((REUSE, REUSE), scope="branch 1").evaluations
    assert size(trace) == (3, 2)
    assert [(c.row, c.column) for c in cells(trace)] == [(0, 0), (1, 0), (2, 1)]


def test_a_timeline_of_nothing_is_still_a_picture():
    assert size(Trace({})) == (1, 1)
    assert timeline(Trace({})).shape == (1, 48, 16, 3)


def test_more_is_brighter():
    brightness = [sum(shade(share)) for share in np.linspace(0.01, 1, 30)]
    assert all(a < b for a, b in pairwise(brightness))
    assert sum(BACK) < sum(REUSED)
