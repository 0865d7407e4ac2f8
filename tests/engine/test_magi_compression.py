"""MAGI-1 with all earlier chunks in sight, and their keys cut down (FlowCache), against keys that
are kept chunk by chunk in plain lists and chosen with every matrix in full."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.motioncache_core.engine.chunks import chunk_session
from motioncache_pack.motioncache_core.engine.chunks.chunk_memory import chunks_kept
from motioncache_pack.motioncache_core.models.magi1.passes import ChunkPasses
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same

SPATIAL, GROUPS = 6, 8
ROWS = 6 * SPATIAL


class ListedKeys:
    """What `ChunkKeys` is asked for, with a list of rows for every block and chunk."""

    def __init__(self, blocks, tiers, rows):
        self.rows, self.kept, self.cut_chunks, self.out = rows, {}, {}, 0

    def reach(self, chunk, first, last, rows=None, cut=None):
        assert rows is None

        def keys(block, q, k, v):
            if cut is not None:
                self._cut(block, q, cut)
            self.kept[block, chunk] = k.clone(), v.clone()
            seen = [self.kept[block, c] for c in range(first, last + 1) if (block, c) in self.kept]
            # what was chosen of finished chunks stands in front of those behind them
            seen = (
                [self.cut_chunks[block]] if first == 0 and block in self.cut_chunks else []
            ) + seen
            return tuple(torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))

        return keys

    def copy(self, chunk, source):
        for block, c in list(source.kept):
            if c == chunk:
                self.kept[block, c] = source.kept[block, c]

    def _cut(self, block, q, cut):
        done = [c for b, c in sorted(self.kept) if b == block and c < cut.finished]
        parts = ([self.cut_chunks[block]] if block in self.cut_chunks else []) + [
            self.kept[block, c] for c in done
        ]
        if sum(k.shape[1] for k, _ in parts) <= cut.keep * self.rows:
            return
        k, v = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
        self.cut_chunks[block] = chosen(q[:, -SPATIAL:], k, v, cut.keep * self.rows)
        for c in done:
            del self.kept[block, c]

    def left_out(self):
        return 0

    def forget_before(self, chunk):
        assert chunk == 0

    def nbytes(self):
        return 0, 0

    def drop(self):
        self.kept.clear()


def chosen(q, k, v, keep):
    """FlowCache's choice for keys `(1, n, GROUPS * d)`, in fp64, head by head."""
    n, d = k.shape[1], k.shape[2] // GROUPS
    share = q.shape[2] // k.shape[2]
    out_k, out_v = [], []
    for g in range(GROUPS):
        kg, vg = (t[0, :, g * d : (g + 1) * d] for t in (k, v))
        keys = kg.double()
        asked = [
            q[0, :, h * d : (h + 1) * d].double() @ keys.T / d**0.5
            for h in range(g * share, (g + 1) * share)
        ]
        mean = torch.stack(asked).amax(dim=0).softmax(dim=1).mean(dim=0)
        near = torch.stack([mean[max(0, i - 3) : i + 4].max() for i in range(n)])
        unit = keys / keys.norm(dim=1, keepdim=True)
        like = ((unit @ unit.T).fill_diagonal_(0.0).sum(dim=1) / n).softmax(dim=0)
        best = (0.07 * near - 0.93 * like).topk(keep).indices.sort().values
        out_k.append(kg[best])
        out_v.append(vg[best])
    return torch.cat(out_k, dim=1)[None], torch.cat(out_v, dim=1)[None]


def listed(monkeypatch, case, **changes):
    with monkeypatch.context() as patch:
        patch.setattr(chunk_session, "ChunkKeys", ListedKeys)
        return magi.run(case, **changes)


def off_by(expected, found):
    return float((expected - found).double().norm() / expected.double().norm())


@pytest.fixture
def compressions(monkeypatch):
    """Shapes of the queries, and what was kept, of every choice that was made."""
    made, compress = [], KVStore.compress

    def counted(self, block, q, rows, keep, heads):
        before = self.done(block)
        compress(self, block, q, rows, keep, heads)
        if self.done(block) != before:
            made.append((tuple(q.shape[:2]), self.done(block).rows, keep, heads))

    monkeypatch.setattr(KVStore, "compress", counted)
    return made


@pytest.mark.parametrize("name", ["distill", "base"])
def test_off_nothing_is_cut_and_the_published_ranges_are_read(name, monkeypatch):
    def none(*args):
        raise AssertionError("finished chunks were to be cut")

    monkeypatch.setattr(KVStore, "compress", none)
    case = magi.recorded(name)
    run = magi.run(case, kv_keep=0)
    assert case.error(run.latents) <= magi.TOLERANCE
    assert_same("latents", magi.run(case).latents, run.latents)


@pytest.mark.parametrize(("name", "window"), [("distill", 4), ("distill_v2v", 1), ("base", 1)])
def test_with_room_for_all_every_earlier_chunk_is_read(name, window, monkeypatch, compressions):
    case = magi.recorded(name)
    expected = listed(monkeypatch, case, kv_keep=case.chunks, window=window).latents
    run = magi.run(case, kv_keep=case.chunks, window=window)
    assert not compressions
    assert off_by(expected, run.latents) <= magi.TOLERANCE
    # the published ranges are others
    assert off_by(magi.run(case, window=window).latents, run.latents) > 1e-3


@pytest.mark.parametrize(
    ("name", "window", "keep"),
    [("distill", 2, 1), ("distill", 1, 2), ("distill_v2v", 1, 1), ("base", 2, 1), ("base", 1, 1),
     ("base_v2v", 1, 1)],
)  # fmt: skip
def test_what_is_kept_is_the_formula_s_choice(name, window, keep, monkeypatch, compressions):
    case = magi.recorded(name)
    changes = {"kv_keep": keep, "window": window}
    expected = listed(monkeypatch, case, **changes).latents
    run = magi.run(case, **changes)
    assert off_by(expected, run.latents) <= magi.TOLERANCE
    assert {(q, k, h) for q, _, k, h in compressions} == {((1, SPATIAL), keep * ROWS, GROUPS)}


@pytest.mark.parametrize(
    ("name", "window", "keep"),
    [("distill", 1, 1), ("distill", 2, 1), ("distill", 1, 2), ("base", 1, 1), ("base", 2, 1)],
)
def test_memory_does_not_grow_with_the_clip(name, window, keep):
    case = magi.recorded(name)
    config = magi.network_of(case).config
    chunk = ROWS * 2 * config.key_width * 4 * config.blocks
    passes = 1 if case.distilled else 2
    room = min(keep + window + passes - 1, case.chunks)
    run = magi.run(case, kv_keep=keep, window=window)
    assert run.trace.kv_bytes == room * passes * chunk
    # what is asked of the memory before the run
    foretold = chunks_kept(case.options(kv_keep=keep, window=window), case.distilled)
    assert min(foretold, case.chunks) == room
    assert all(c.pairs == c.needed_pairs for c in run.trace.calls())


@pytest.mark.parametrize("kv_cache", ["cpu", "gpu"])
def test_cut_keys_may_be_anywhere(kv_cache):
    case = magi.recorded("distill")
    expected = magi.run(case, kv_keep=1, window=1).latents
    found = magi.run(case, kv_keep=1, window=1, kv_cache=kv_cache).latents
    assert_same("latents", expected, found)


@pytest.mark.parametrize("window", [1, 2])
def test_tokens_computed_alone_read_cut_keys(window, monkeypatch):
    """All of a chunk's rows, named one by one, are the chunk."""
    case = magi.recorded("distill")
    changes = {"kv_keep": 1, "window": window, "near_clean": False, "clean_pass": False}
    expected = magi.run(case, **changes).latents
    velocity = ChunkPasses.velocity

    def all_as_rows(self, e):
        return velocity(self, replace(e, rows=torch.arange(ROWS)))

    monkeypatch.setattr(ChunkPasses, "velocity", all_as_rows)
    assert off_by(expected, magi.run(case, **changes).latents) <= magi.TOLERANCE


def test_out_of_memory_in_the_middle_of_a_cut_goes_on(monkeypatch):
    """Some blocks are cut and others not when the chunk is evaluated again."""
    case, left, compress = magi.recorded("distill"), [], KVStore.compress
    monkeypatch.setattr(KVStore, "make_room", lambda self: True)

    def short(self, block, q, rows, keep, heads):
        if block == 1 and rows > keep and not left:
            left.append(rows)
            raise torch.OutOfMemoryError("none left")
        compress(self, block, q, rows, keep, heads)

    changes = {"kv_keep": 1, "window": 1}
    expected = magi.run(case, **changes).latents
    monkeypatch.setattr(KVStore, "compress", short)
    assert_same("latents", expected, magi.run(case, **changes).latents)
    assert left
