"""Rows, positions and chunks of the token grid."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motioncache_pack.motioncache_core.common.errors import CacheShapeError
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout

grids = st.tuples(*(st.integers(1, 9) for _ in range(3)))


@given(grids)
def test_rows_are_frame_major_without_gaps_and_know_their_position(grid):
    layout = TokenLayout(*grid)
    places = list(itertools.product(*(range(n) for n in grid)))
    assert [layout.row(*place) for place in places] == list(range(layout.tokens))
    assert [layout.position(row) for row in range(layout.tokens)] == places


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 5))
def test_chunks_cover_all_rows_in_order(chunks, height, width):
    layout = TokenLayout(sum(chunks), height, width, tuple(chunks))
    rows = [r for part in layout.chunk_rows() for r in range(part.start, part.stop)]
    frames = [f for part in layout.chunk_frames() for f in range(part.start, part.stop)]
    assert rows == list(range(layout.tokens))
    assert frames == list(range(layout.frames))
    assert [part.stop - part.start for part in layout.chunk_frames()] == chunks


def test_an_example_by_hand():
    layout = TokenLayout(5, 2, 3, (2, 3))
    assert (layout.spatial, layout.tokens) == (6, 30)
    assert layout.row(1, 1, 2) == 11
    assert layout.position(13) == (2, 0, 1)
    assert layout.chunk_frames() == [slice(0, 2), slice(2, 5)]
    assert layout.chunk_rows() == [slice(0, 12), slice(12, 30)]


def test_a_clip_without_chunks_is_one_chunk():
    assert TokenLayout(4, 2, 2).chunks == (4,)
    assert TokenLayout(4, 2, 2, (1, 3)).as_one_chunk() == TokenLayout(4, 2, 2)


def test_an_empty_side_is_refused():
    for grid in ((0, 2, 2), (3, 0, 2), (3, 2, 0), (3, -1, 2)):
        with pytest.raises(CacheShapeError, match="each side must be 1 or more"):
            TokenLayout(*grid)


def test_chunks_that_do_not_fit_the_clip_are_refused():
    for chunks in ((2, 2), (6,), (5, 0), (6, -1)):
        with pytest.raises(CacheShapeError, match="do not add up to the clip's 5 latent frames"):
            TokenLayout(5, 2, 2, chunks)
