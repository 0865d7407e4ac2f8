"""Keys and values of finished chunks within a budget, and the memory of a run."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings, SettingsError
from motioncache_pack.motioncache_core.cache import kv_store
from motioncache_pack.tests.core.causal_oracle import FINISHED, Masked
from motioncache_pack.tests.core.causal_runs import (
    BOTH,
    NETWORK,
    OFF,
    Film,
    ForcingRun,
    apart,
    counted,
    poison,
    sampled,
)
from motioncache_pack.tests.core.kv_places import in_turn, kept_bytes
from motioncache_pack.tests.core.runs import dictate, living_tensors
from motioncache_pack.tests.core.small_wan import TEXT_TOKENS
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

# keys and values of a frame of 4 tokens, two blocks of 128 channels, two branches
FRAME = 2 * 2 * 4 * 128 * 4 * 2
SIZE = (4, 4)
# and the chunks that are kept
PREFIXES = (0, 1), (3, 1), (3, 2)


@pytest.mark.parametrize(
    "kv_keep, window, kept_in", in_turn([(1, 0), (2, 6), (2, 0)]), indirect=["kept_in"]
)
def test_memory_stays_within_the_budget_however_long_the_clip(kv_keep, window, kept_in):
    sizes = set()
    for frames in (12, 20):
        options = ForcingOptions(2, 2, window_frames=window, kv_keep=kv_keep)
        latents, trace = sampled(Film((frames, *SIZE), 2, options=options))
        sizes.add(kept_bytes(trace, kept_in))
        assert bool(torch.isfinite(latents).all())
    # two chunks of two frames are denoised at a time
    assert sizes == {2 * (2 * kv_keep + 4) * FRAME}


@pytest.mark.parametrize(
    "options, kept_in",
    in_turn([ForcingOptions(2, 2), ForcingOptions(2, 2, window_frames=6, overlap_frames=2)]),
    indirect=["kept_in"],
)
def test_a_budget_that_is_never_used_up_changes_nothing(options, kept_in):
    film = Film((9, *SIZE), prefix=1, options=options)
    wanted, trace = sampled(film)
    got, other = sampled(replace(film, options=replace(options, kv_keep=5)))
    assert_same("latents", wanted, got)
    assert [c.pairs for c in trace.calls()] == [c.pairs for c in other.calls()]
    assert kept_bytes(trace, kept_in) == kept_bytes(other, kept_in) > 0


def test_a_chunk_must_be_in_view_when_its_kept_keys_become_clean():
    # four steps: it would leave the window in the moment it is finished
    options = ForcingOptions(2, 2, window_frames=4, kv_keep=9)
    with pytest.raises(SettingsError, match="at least 3 for 4 steps"):
        sampled(Film((9, *SIZE), options=options))


@pytest.mark.parametrize("delay, window", [(2, 6), (3, 4)])
def test_a_rolling_window_that_keeps_everything_sees_the_whole_clip(delay, window):
    film = Film((9, *SIZE), options=ForcingOptions(2, delay))
    wanted, _ = sampled(film)
    options = ForcingOptions(2, delay, window_frames=window, kv_keep=9)
    got, _ = sampled(replace(film, options=options))
    assert_close("latents", wanted, got)


def keep_last(q, k, v, keep, *, heads):
    """A choice that a mask can follow."""
    return k[:, -keep:].clone(), v[:, -keep:].clone()


@pytest.mark.parametrize(
    "window, delay, prefix, kv_keep, kept_in",
    in_turn(
        (*w, *PREFIXES[(i + j) % 3])
        for j in range(2)
        for i, w in enumerate([(0, 1), (0, 2), (6, 2), (4, 3)])
    ),
    indirect=["kept_in"],
)
def test_what_is_dropped_is_seen_no_more_and_the_rest_is_in_place(
    monkeypatch, kv_keep, window, delay, prefix, kept_in
):
    poison(monkeypatch)
    monkeypatch.setattr(kv_store, "compress_kv", keep_last)
    options = ForcingOptions(2, delay, window_frames=window, kv_keep=kv_keep)
    film = Film((11, *SIZE), 2 if window else 1, prefix=prefix, options=options)
    if delay == 2:
        film.grouping = apart
    got, _ = sampled(film)
    oracles = {names: Masked(NETWORK, keep=2 * kv_keep) for names in (BOTH, BOTH[:1], BOTH[1:])}

    def wanted(x, t, context, names, forcing):
        return oracles[names].call(x, t, context, names, forcing)

    assert_close("latents", film.sample(wanted), got)


def test_only_finished_chunks_are_weighed_by_the_newest_chunk_at_work(monkeypatch):
    compress, asked = kv_store.compress_kv, []

    def spy(q, k, v, keep, *, heads):
        kept = compress(q, k, v, keep, heads=heads)
        asked.append((q.clone(), k.clone(), v.clone(), keep, heads, kept))
        return kept

    monkeypatch.setattr(kv_store, "compress_kv", spy)
    film = Film((9, *SIZE), prefix=2, options=ForcingOptions(2, 2, kv_keep=1))
    seen, at = [], {}

    def attention(func, q, k, v, **kwargs):
        if k.shape[1] != TEXT_TOKENS:
            seen[-1].append((q.clone(), k.clone()))
        return func(q, k, v, **kwargs)

    run = ForcingRun(NETWORK, OFF, sigmas=film.sigmas)
    run.host = {"optimized_attention_override": attention}

    def answer(*call):
        seen.append([])
        before = len(asked)
        out = run.answer(*call)
        at[call[-1].iteration.index] = asked[before:], seen[-1]
        return out

    film.sample(answer)
    held = 0
    for it in film.schedule:
        events, attended = at[it.index]
        cleaned = [f for f, s in zip(it.chunks, it.steps, strict=True) if s.role == "clean"]
        held += sum(cleaned)
        if held <= 2:
            assert events == []
            continue
        # once for each block
        half = len(attended) // 2
        blocks = zip(events, (attended[:half], attended[half:]), strict=True)
        for (q, k, v, keep, heads, kept), block in blocks:
            assert (k.shape[1], keep, heads) == (4 * held, 8, 1)
            assert torch.equal(k, block[-1][1][:, : 4 * held])
            # the last frame of the newest chunk
            assert torch.equal(q, block[-1][0][:, -4:])
            assert kept[0].shape == kept[1].shape == (2, 8, 128)
            rows = [[k[b].tolist().index(row) for row in kept[0][b].tolist()] for b in range(2)]
            assert all(r == sorted(set(r)) for r in rows)
            assert torch.equal(v[0, rows[0]], kept[1][0])
        held = 2


def test_dropped_memory_is_given_back(kept_in):
    film = Film((12, *SIZE), 2, options=ForcingOptions(2, 2, kv_keep=1))
    before = set(living_tensors())
    run = ForcingRun(NETWORK, OFF, sigmas=film.sigmas)
    checked = []

    def answer(*call):
        out = run.answer(*call)
        index = call[-1].iteration.index
        if index % 4 == 3:
            kept = [t for key, t in living_tensors().items() if key not in before]
            # tokens, and scales of the one head
            memory = [t.untyped_storage() for t in kept if t.ndim == 3 and t.shape[-1] in (128, 1)]
            sizes = {storage.data_ptr(): storage.nbytes() for storage in memory}
            clip = run.session._clips.latest
            counts = [sum(table.nbytes()) for table in clip._tables.values()]
            counts.append(clip._memory.nbytes())
            checked.append((sum(sizes.values()), sum(counts)))
        return out

    film.sample(answer)
    run.session.close()
    assert len(checked) >= 3
    assert all(alive == told for alive, told in checked)
    kept = [t for key, t in living_tensors().items() if key not in before]
    assert [t for t in kept if t.ndim == 3 and t.shape[-1] in (128, 1)] == []


def test_compression_waits_for_queries_when_all_chunks_at_work_are_reused(monkeypatch, kept_in):
    monkeypatch.setattr(kv_store, "compress_kv", keep_last)
    film = Film((8, *SIZE), steps=5, options=ForcingOptions(2, 4, kv_keep=1))
    entries, reused = [], []
    for it in film.schedule:
        clean = any(s.role == "clean" for s in it.steps)
        for step in it.steps:
            if step.role == "active":
                entries.append("reuse" if clean and step.step > 0 else "dense")
        if clean and all(s.step > 0 for s in it.steps if s.role == "active"):
            reused.append(it.index)
    assert len(reused) >= 2
    dictate(monkeypatch, *entries)
    poison(monkeypatch)
    run = ForcingRun(NETWORK, MotionCacheSettings(dense_last=False))
    sizes = {}

    def answer(*call):
        out = run.answer(*call)
        _, device, _, host = run.session._clips.latest._tables[out.device].nbytes()
        frame = FRAME * 129 // 128 if kept_in == "gpu_fp8" else FRAME
        sizes[call[-1].iteration.index] = (device + host) / frame
        return out

    assert bool(torch.isfinite(film.sample(answer)).all())
    for it in film.schedule:
        finished = [s.role in FINISHED for s in it.steps]
        started = [s.role != "unstarted" for s in it.steps]
        if sum(finished) > 1:
            at_work = 2 * (sum(started) - sum(finished))
            waiting = 2 if it.index in reused else 0
            assert sizes[it.index] == 2 + waiting + at_work


def test_partial_rows_behind_compressed_chunks_are_written_in_place(monkeypatch, kept_in):
    monkeypatch.setattr(kv_store, "compress_kv", keep_last)
    poison(monkeypatch)
    film = Film((8, *SIZE), steps=5, options=ForcingOptions(2, 3, kv_keep=1))
    # all rows, but as a list of them
    entries = [
        "dense" if s.step == 0 or s.step % 2 else list(range(8))
        for it in film.schedule
        for s in it.steps
        if s.role == "active"
    ]
    wanted, _ = sampled(film)
    dictate(monkeypatch, *entries)
    got, _ = sampled(film, MotionCacheSettings(dense_last=False), sigmas=())
    assert_close("latents", wanted, got)


def test_pairs_are_counted_with_what_is_kept(monkeypatch):
    monkeypatch.setattr(kv_store, "compress_kv", keep_last)
    for window in (0, 6):
        options = ForcingOptions(2, 2, window_frames=window, kv_keep=1)
        count, trace, _ = counted(Film((10, *SIZE), options=options))
        assert [c.pairs for c in trace.calls()] == count.pairs


def test_a_branch_that_joins_finds_its_place_beside_compressed_ones(monkeypatch, kept_in):
    poison(monkeypatch)
    film = Film((10, *SIZE), options=ForcingOptions(2, 2, kv_keep=1))
    film.grouping = lambda i: [BOTH] if i >= 7 else [("cond",)]
    latents, trace = sampled(film)
    assert bool(torch.isfinite(latents).all())
    assert [bool(c.note) for c in trace.calls()][7]
