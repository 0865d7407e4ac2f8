"""Out of memory at each allocation of the store: a step down, the run goes on, and says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.motioncache_core.cache.kv_blocks.block import TierResources
from motioncache_pack.motioncache_core.cache.kv_blocks.kinds import TIERS
from motioncache_pack.motioncache_core.cache.kv_blocks.offloaded import Offloaded
from motioncache_pack.motioncache_core.cache.kv_blocks.quantized import Quantized
from motioncache_pack.motioncache_core.cache.kv_blocks.resident import Resident
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.motioncache_core.cache.kv_tiers import KVTiers
from motioncache_pack.motioncache_core.engine.session import SPENT
from motioncache_pack.tests.core import faults
from motioncache_pack.tests.core.causal_runs import OFF, Film, ForcingRun, apart
from motioncache_pack.tests.core.faults import kinds
from motioncache_pack.tests.core.runs import left_over, living_tensors
from motioncache_pack.tests.core.small_wan import small_wan
from motioncache_pack.tests.support.assert_close import assert_same

# the first one that is partial, of those that call blocks
PARTIAL = 3
SETTINGS = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, min_update_ratio=0.0
)


class Scarce:
    """Memory that runs out at some of the store's allocations, and reads back.

    Args:
        fails: places to the numbers of their allocations that fail; None is all of them.
    """

    def __init__(self, monkeypatch, fails):
        self.fails, self.counts = fails, dict.fromkeys(TIERS, 0)
        for kind in (Resident, Quantized, Offloaded):
            self._watch(monkeypatch, kind, "empty")
            self._watch(monkeypatch, kind, "update")
        self._watch(monkeypatch, Resident, "keeping")

    def _watch(self, monkeypatch, kind, name):
        original = getattr(kind, name)
        place, bound = kind.tier, name != "update"

        def watched(*args):
            at = self.counts[place]
            self.counts[place] += 1
            failing = self.fails.get(place, ())
            if failing is None or at in failing:
                raise torch.OutOfMemoryError("simulated")
            return original(*args)

        monkeypatch.setattr(kind, name, staticmethod(watched) if bound else watched)


def sampled(settings=SETTINGS):
    """Latents and trace of a run of three blocks."""
    return faults.sampled(settings, small_wan(), size=(3, 6, 6))


def error(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


def allocations(monkeypatch, settings):
    """How often a run of these settings asks each place for memory."""
    with monkeypatch.context() as patched:
        scarce = Scarce(patched, {})
        latents, trace = sampled(settings)
    return scarce.counts, latents, trace


@pytest.mark.parametrize("place", ["gpu", "gpu_fp8", "cpu"])
def test_at_each_allocation_the_run_goes_on(monkeypatch, place):
    settings = replace(SETTINGS, kv_cache=place)
    counts, _, trace = allocations(monkeypatch, settings)
    assert "partial" in kinds(trace)
    exact, _ = sampled(replace(SETTINGS, kv_cache="gpu"))
    dense, _ = sampled(replace(SETTINGS, reuse_threshold=0))
    sampled(settings)
    before = living_tensors()
    for at in range(counts[place]):
        with monkeypatch.context() as patched:
            Scarce(patched, {place: (at,)})
            latents, trace = sampled(settings)
        if place == "cpu" and at >= 3:
            # nothing is below, and the rows of a partial evaluation need the others
            assert [c.note for c in trace.declined_calls] == [SPENT]
            assert trace.kv_reason == SPENT
        else:
            assert "out of memory at block" in trace.kv_reason
        assert error(latents, dense) < 1.5 * error(exact, dense) + 0.01
        del latents
    assert left_over(before) == []
    again, trace = sampled(settings)
    assert_same("latents", sampled(settings)[0], again)
    assert "out of memory" not in trace.kv_reason


def test_each_step_goes_to_the_next_place_and_the_blocks_before_stay():
    kv = KVStore(4, KVTiers(TierResources(1, ops), ["gpu"] * 4))
    fresh = [torch.randn(2, 5, 8) for _ in range(4)]
    for block, k in enumerate(fresh):
        kv.put(block, k.clone(), -k)
    for start, wanted in (
        (2, ["gpu", "gpu", "gpu_fp8", "gpu_fp8"]),
        (3, ["gpu", "gpu", "gpu_fp8", "cpu"]),
        (1, ["gpu", "gpu_fp8", "gpu_fp8", "cpu"]),
        (1, ["gpu", "cpu", "cpu", "cpu"]),
    ):
        kv._step_down(start)
        assert kv.tiers.tiers == wanted
        assert [kv.entries[i].tier for i in range(4)] == wanted
        assert kv.complete
    for block, k in enumerate(fresh):
        got = kv.entries[block].read(5)[0]
        assert error(got, k) < (1e-7 if block == 0 else 0.04)
    assert [(note.code, note.partition(". ")[0]) for note in kv.tiers.notes] == [
        ("kv_step_down", f"out of memory at block {block}: {place} from there on")
        for block, place in ((2, "gpu_fp8"), (3, "cpu"), (1, "gpu_fp8"), (1, "cpu"))
    ]
    kv._step_down(1)
    assert kv.tiers.lost
    assert kv.nbytes() == (0, 0)


def test_without_any_memory_whole_clips_are_reused(monkeypatch):
    Scarce(monkeypatch, {"gpu": None, "gpu_fp8": None, "cpu": None})
    latents, trace = sampled()
    assert set(kinds(trace)) == {"dense", "reuse"}
    assert "dropped, whole chunks are reused or computed" in trace.kv_reason
    assert (trace.kv_bytes, trace.kv_host_bytes) == (0, 0)
    assert_same("latents", sampled(replace(SETTINGS, kv_cache="off"))[0], latents)


@pytest.mark.parametrize("grouping", [None, apart])
def test_the_host_is_exact_however_much_is_moved_there(monkeypatch, grouping):
    film = Film((8, 4, 4), options=ForcingOptions(2, 2, kv_keep=1))
    film.grouping = grouping or film.grouping

    def latents():
        run = ForcingRun(small_wan(1, 2), OFF, sigmas=film.sigmas)
        try:
            return film.sample(run.answer), run.trace
        finally:
            run.session.close()

    wanted, _ = latents()
    with monkeypatch.context() as patched:
        scarce = Scarce(patched, {})
        latents()
    for at in range(0, scarce.counts["gpu"], 7):
        with monkeypatch.context() as patched:
            # past 8 bits: straight to the host
            Scarce(patched, {"gpu": (at,), "gpu_fp8": None})
            got, trace = latents()
        assert_same("latents", wanted, got)
        assert "cpu from there on" in trace.kv_reason


def test_block_causal_attention_raises_when_nothing_is_left(monkeypatch):
    Scarce(monkeypatch, {"gpu": None, "gpu_fp8": None, "cpu": None})
    film = Film((5, 4, 4), options=ForcingOptions(2, 2))
    run = ForcingRun(small_wan(1, 2), OFF, sigmas=film.sigmas)
    with pytest.raises(torch.OutOfMemoryError, match="set window_frames or kv_keep"):
        film.sample(run.answer)
    run.session.close()


LITTLE, MUCH = (0.6, "gpu_fp8"), (0.01, "cpu")


# of three blocks: in the first full evaluation, in a later one, in a partial one
@pytest.mark.parametrize(
    "block, call, share, place",
    [
        (1, 0, *LITTLE),
        (2, 0, *MUCH),
        (2, 1, *LITTLE),
        (1, PARTIAL, *MUCH),
        (0, PARTIAL, *LITTLE),
        (0, PARTIAL, *MUCH),
    ],
)
def test_when_a_block_runs_out_stored_keys_and_values_make_room(
    monkeypatch, block, call, share, place
):
    dense, _ = sampled(replace(SETTINGS, reuse_threshold=0))
    exact, unhurt = sampled(replace(SETTINGS, kv_cache="gpu"))
    stores, calls, limit = [], [], []
    begin = KVStore.__init__

    def remembered(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        stores.append(self)

    def greedy(module, args):
        """Runs out in its own work, until stored keys and values have given some."""
        calls.append(args[0].shape[1])
        held = sum(store.nbytes()[0] for store in stores)
        if len(calls) > call:
            limit.append(share * held)
            if held > limit[0]:
                raise torch.OutOfMemoryError("simulated, in the model")

    network = small_wan()
    with monkeypatch.context() as patched:
        patched.setattr(KVStore, "__init__", remembered)
        hook = network.blocks[block].register_forward_pre_hook(greedy)
        try:
            got, trace = sampled(replace(SETTINGS, kv_cache="gpu"))
        finally:
            hook.remove()
            stores.clear()
    assert (calls[call] < 27) == (call == PARTIAL)
    assert f"{place} from there on" in trace.kv_reason
    assert kinds(trace) == kinds(unhurt)
    assert error(got, dense) < 1.5 * error(exact, dense) + 0.01


def test_a_block_that_never_fits_raises_what_the_model_raised():
    network = small_wan()

    def never(module, args):
        raise torch.OutOfMemoryError("simulated, in the model")

    hook = network.blocks[2].register_forward_pre_hook(never)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="simulated, in the model"):
            sampled()
    finally:
        hook.remove()
