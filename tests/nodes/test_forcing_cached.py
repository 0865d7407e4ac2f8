"""Diffusion forcing of a patched model: what is reused, what is told, what is left behind."""

import gc
import importlib
import json
import weakref

import pytest
import torch
from motioncache_pack.motioncache_core import RunFacts, Session
from motioncache_pack.motioncache_core.cache.kv_store import KVStore
from motioncache_pack.tests.support.forcing_runs import (
    NEVER,
    by_core,
    by_host,
    clip,
    error,
    extended,
    sampler,
    wan,
    watch,
)
from motioncache_pack.tests.support.node_runs import (
    LAYERS,
    MIXED,
    decisions,
    network_of,
    options_of,
)

STEPS = 10
FRAMES = 5
SETTINGS = {"reuse_threshold": 0.05}
ANSWERS = {"policy": "answer", "warmup_steps": 1, "compute_budget": 0.4, "forecast": 1.0}
# fp32 rounding of two implementations of one network that decide alike
CLOSE = 1e-5
# of the last evaluation; the clip's five latent frames are chunks of 2, 2 and 1
LAST_INPUT = {"whole": 5, "rolling": 3, "sequential": 3}
IDLE = ("unstarted", "clean", "done")
WINDOWS = {
    "whole": {"chunk_delay": 4},
    "rolling": {"window_frames": 4, "chunk_delay": 5},
    "sequential": {"window_frames": 4, "overlap_frames": 2, "chunk_delay": 4},
}
runs = pytest.mark.parametrize(
    ("attention", "patched"), [("block_causal", False), ("bidirectional", True)]
)
windows = pytest.mark.parametrize(
    ("window", "attention"),
    [("whole", "block_causal"), ("rolling", "bidirectional"), ("sequential", "block_causal")],
)


@pytest.fixture
def stored(kept, monkeypatch):
    """`kept`, and the keys and values that block-causal attention stores."""
    grow = KVStore.grow

    def watched(self, block, *args):
        grow(self, block, *args)
        kept.refs.extend(weakref.ref(t) for t in self.entries[block].tensors)

    monkeypatch.setattr(KVStore, "grow", watched)
    return kept


def iterations(window):
    """Model evaluations of three chunks in ten steps."""
    return {"whole": 10 + 2 * 4, "rolling": 10 + 2 * 5, "sequential": 14 + 10}[window]


@windows
def test_a_cached_run_reuses_and_stays_close(pack, window, attention):
    options = {**WINDOWS[window], "attention": attention}
    model, noise = wan(pack), clip(FRAMES)
    rows = []
    for block in model.model.diffusion_model.blocks:
        block.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    wanted = by_host(pack, model, noise, options, steps=STEPS)
    dense, rows[:] = sum(rows), []
    patched, handle = pack.patch(model, **SETTINGS)
    got = by_host(pack, patched, noise, options, steps=STEPS)
    trace, share = handle.latest, sum(rows) / dense
    assert 0.1 < share < 0.7
    assert 1e-5 < error(got, wanted) < 0.02
    assert len(trace.evaluations) == iterations(window)
    work = [c for e in trace.evaluations for c in e.chunks if c.phase not in IDLE]
    assert len(work) == 3 * STEPS
    assert {c.kind for c in work} == {"dense", "partial", "reuse"}
    # the last steps of a chunk are computed as a whole
    assert sum(c.phase == "last" for c in work) == 3
    assert {c.kind for c in work if c.phase == "last"} == {"dense"}
    _, _, told = pack.execute("MotionCacheReport", handle, {})
    assert json.loads(told)["totals"]["compute_share"] == pytest.approx(share, abs=1e-6)


@windows
def test_answers_are_carried_chunk_by_chunk(pack, window, attention):
    """Each chunk is computed at four of its ten steps, and no prompt looks at another's answers."""
    options = {**WINDOWS[window], "attention": attention}
    model, noise = wan(pack), clip(FRAMES)
    wanted = by_host(pack, model, noise, options, steps=STEPS)
    patched, handle = pack.patch(model, **ANSWERS)
    got = by_host(pack, patched, noise, options, steps=STEPS)
    trace = handle.latest
    assert 1e-5 < error(got, wanted) < 0.05
    assert trace.reason == "" and trace.answer_bytes > 0
    work = [c for e in trace.evaluations for c in e.chunks if c.phase not in IDLE]
    kinds = [c.kind for c in work]
    assert (kinds.count("dense"), kinds.count("reuse")) == (3 * 4, 3 * 6)
    if attention == "bidirectional":
        # a cache at work leaves out the chunks that are finished or have not begun
        return
    whole, _ = pack.patch(model, **{**ANSWERS, "compute_budget": 1.0})
    assert error(by_host(pack, whole, noise, options, steps=STEPS), wanted) < CLOSE


@pytest.mark.parametrize("settings", [SETTINGS, ANSWERS], ids=["motion", "answer"])
@windows
def test_a_cached_run_is_the_cores_cached_run(pack, window, attention, settings):
    options = {**WINDOWS[window], "attention": attention, "condition_noise": 0.05}
    start, mask = extended(pack, clip(3), FRAMES - 3)
    patched, handle = pack.patch(wan(pack), **settings)
    noise = clip(FRAMES)
    got = by_host(pack, patched, noise, options, start=start, denoise_mask=mask, steps=STEPS)
    sigmas = pack.host.sigmas(patched, STEPS).tolist()
    wanted, trace = by_core(
        pack, patched, noise, options, start=start, prefix=3, steps=STEPS,
        settings={**MIXED, **settings}, facts=RunFacts(sigmas=sigmas),
    )  # fmt: skip
    assert decisions(handle.latest) == decisions(trace)
    assert error(got, wanted) < CLOSE


@windows
def test_never_reusing_is_bit_identical_to_no_node(pack, window, attention):
    options = {**WINDOWS[window], "attention": attention, "condition_noise": 0.05}
    start, mask = extended(pack, clip(3), FRAMES - 3)
    model, noise = wan(pack), clip(FRAMES)
    patched, handle = pack.patch(model, **NEVER)
    how = {
        "start": start,
        "denoise_mask": mask,
        "steps": 9,
        "cfg": 1.0 if window == "whole" else 3.0,
    }
    assert torch.equal(
        by_host(pack, patched, noise, options, **how), by_host(pack, model, noise, options, **how)
    )
    assert "reuse_threshold is 0" in handle.latest.reason


def test_few_steps_of_chunks_reuse_nothing(pack):
    model, noise = wan(pack), clip(FRAMES)
    patched, handle = pack.patch(model, **SETTINGS)
    got, wanted = (by_host(pack, m, noise, {}, steps=8) for m in (patched, model))
    assert torch.equal(got, wanted)
    assert "8 sampling steps" in handle.latest.reason


@pytest.mark.parametrize("settings", [SETTINGS, ANSWERS], ids=["motion", "answer"])
@windows
def test_report_and_motion_map_tell_of_every_chunk(pack, window, attention, settings):
    options = {**WINDOWS[window], "attention": attention}
    patched, handle = pack.patch(wan(pack), **settings)
    by_host(pack, patched, clip(FRAMES), options, steps=STEPS)
    words, timeline, data = pack.execute("MotionCacheReport", handle, {"samples": None})
    found, count = json.loads(data), iterations(window)
    assert found["totals"]["evaluations"] == len(found["evaluations"]) == count
    assert 0 < found["totals"]["flops_share"] < 1
    assert found["reason"] is None
    drawn = words.split("not at work):\n")[1].splitlines()[:3]
    assert [line.split(":")[0].strip() for line in drawn] == [
        f"all branches, chunk {i}" for i in range(3)
    ]
    for line in drawn:
        marks = set(line.split(": ")[1]) - {" "}
        # single tokens are told apart by one of the policies
        assert {"D", "."} <= marks and (settings is ANSWERS) == (marks == {"D", "."})
    pictures = importlib.import_module("motioncache_pack.nodes.pictures.timeline")
    rows = max(e["first_chunk"] + len(e["chunks"]) for e in found["evaluations"])
    width, height = pictures.Grid(rows, count).picture
    assert timeline.shape == (1, height, width, 3)
    assert 0 <= timeline.min() < timeline.max() <= 1
    assert f"{count} evaluations" in words

    # a map is of the model's last input, and lies over the frames that this was
    for view in ("motion", "updates", "staleness", "active"):
        (maps,) = pack.execute("MotionCacheMotionMap", handle, {}, view, -1, "gray", 0.6)
        assert maps.shape == (LAST_INPUT[window], 48, 64, 3)
        assert 0 <= maps.min() <= maps.max() <= 1
        # the only chunk at work was computed in this very evaluation
        assert (maps.max() > 0.1) == (view != "staleness")
    brightness = torch.linspace(0, 1, FRAMES)
    images = brightness[:, None, None, None].expand(-1, 24, 32, 3)
    (over,) = pack.execute("MotionCacheMotionMap", handle, {}, "updates", -1, "gray", 0, images)
    wanted = brightness[-LAST_INPUT[window] :].tolist()
    assert over.mean(dim=(1, 2, 3)).tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("window", "attention", "patched"),
    [("whole", "bidirectional", True), ("rolling", "block_causal", False)],
)
def test_every_iteration_is_told_once(pack, window, attention, patched):
    model = wan(pack)
    if patched:
        model, _ = pack.patch(model, **SETTINGS)
    noise, told = clip(FRAMES), []
    start, mask = extended(pack, clip(1), FRAMES - 1)

    def callback(step, x0, x, total):
        assert x0.shape == x.shape == noise.shape
        assert x0.isfinite().all()
        told.append((step, total, x0.clone()))

    options = {**WINDOWS[window], "attention": attention}
    got = by_host(
        pack, model, noise, options, start=start, denoise_mask=mask, steps=STEPS, callback=callback
    )
    count = iterations(window)
    assert [(step, total) for step, total, _ in told] == [(i, count) for i in range(count)]
    # every frame's last step ends in what the model predicts
    assert error(model.model.process_latent_out(told[-1][2]), got) < 1e-5
    assert error(told[0][2], told[-1][2]) > 0.1


@runs
def test_a_finished_and_an_interrupted_run_leave_nothing(pack, stored, patched, attention):
    interrupt = pack.host.model_management.InterruptProcessingException
    model, guiders = wan(pack), []
    if patched:
        model, handle = pack.patch(model, **SETTINGS)
    noise, options = clip(FRAMES), {"chunk_delay": 4, "attention": attention}
    ordinary = pack.sample(model, steps=9)
    watch(pack, model, "SAMPLER_SAMPLE", lambda guider, *_: guiders.append(guider))
    before, modules = options_of(model), network_of(model)
    stored.refs.clear()
    fresh = by_host(pack, model, noise, options, steps=STEPS)
    assert len(stored.refs) >= 2 * LAYERS
    assert stored.alive() == []
    assert (options_of(model), network_of(model)) == (before, modules)
    stored.refs.clear()

    def callback(step, *_):
        if step == 9:
            raise interrupt

    with pytest.raises(interrupt):
        by_host(pack, model, noise, options, steps=STEPS, callback=callback)
    assert len(stored.refs) >= 2 * LAYERS
    assert stored.alive() == []
    assert (options_of(model), network_of(model)) == (before, modules)
    assert guiders[-1].model_options is model.model_options
    gc.collect()
    sessions = [o for o in gc.get_objects() if type(o) is Session]
    assert sessions == []
    if patched:
        assert len(handle.runs) == 2
    assert torch.equal(by_host(pack, model, noise, options, steps=STEPS), fresh)
    assert torch.equal(pack.sample(model, steps=9), ordinary)


def test_the_sampler_tracks_no_gradients(pack):
    # the host's samplers do not either, whoever calls them
    model, noise = wan(pack), clip(FRAMES)
    guider = pack.host.guider(model, pack.host.text(1), pack.host.text(2))
    made, start = sampler(pack), torch.zeros_like(noise)
    with torch.enable_grad():
        got = guider.sample(noise, start, made, pack.host.sigmas(model, 3), disable_pbar=True)
    assert not got.requires_grad
