"""Rows, positions and chunks of the token grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motioncache_pack.motioncache_core.common.errors import CacheShapeError
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout

grids = st.tuples(*(st.integers(1, 9) for _ in range(3)))


@given(grids, st.data())
def test_row_and_position_are_inverse(grid, data):
    layout = TokenLayout(*grid)
    row = data.draw(st.integers(0, layout.tokens - 1))
    assert layout.row(*layout.position(row)) == row
    frame, y, x = (data.draw(st.integers(0, n - 1)) for n in grid)
    assert layout.position(layout.row(frame, y, x)) == (frame, y, x)


@given(grids)
def test_rows_are_frame_major_without_gaps(grid):
    frames, height, width = grid
    layout = TokenLayout(*grid)
    order = [
        layout.row(f, y, x) for f in range(frames) for y in range(height) for x in range(width)
    ]
    assert order == list(range(layout.tokens))


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


@pytest.mark.parametrize("grid", [(0, 2, 2), (3, 0, 2), (3, 2, 0), (3, -1, 2)])
def test_an_empty_side_is_refused(grid):
    with pytest.raises(CacheShapeError, match="each side must be 1 or more"):
        TokenLayout(*grid)


@pytest.mark.parametrize("chunks", [(2, 2), (6,), (5, 0), (6, -1)])
def test_chunks_that_do_not_fit_the_clip_are_refused(chunks):
    with pytest.raises(CacheShapeError, match="do not add up to the clip's 5 latent frames"):
        TokenLayout(5, 2, 2, chunks)
