"""What a run keeps, of whom and for how long, by both engines: prompts that take over from each
other, passes that never come again, levels that come again, networks that are swapped."""

import importlib
import itertools
import uuid

import pytest
import torch
from motioncache_pack.motioncache_core import UnsupportedModelError
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.nodes.test_answer_graphs import rising
from motioncache_pack.tests.support.answer_runs import STEPS, as_planned, patch, same, small, watch
from motioncache_pack.tests.support.node_runs import foretold, marks

WHOLE, TOKENS = ("balanced", "quality"), ("motion", "paper")
every = pytest.mark.parametrize("preset", [*WHOLE, *TOKENS])


def held(trace):
    """The most bytes that a run kept."""
    return trace.answer_bytes + trace.residual_bytes + trace.kv_bytes


def plain(pack, preset, steps=STEPS):
    scene = small(pack)
    told = watch(pack, scene.model, lambda m: scene.sample(m, steps=steps), preset)
    assert not told.trace.reason and held(told.trace) > 0
    return told


def in_ranges(scene, model, count):
    """As many prompts, each for its part of the schedule."""
    prompts = []
    for k in range(count):
        ((text, _),) = scene.host.text(10 + k)
        span = {"start_percent": k / count, "end_percent": (k + 1) / count}
        prompts.append([text[:, : scene.positive[0][0].shape[1]], span])
    return scene.sample(model, positive=prompts)


@every
@pytest.mark.parametrize("count", [2, 8])
def test_prompts_in_ranges_keep_no_more_than_those_of_two_steps(pack, preset, count):
    scene, alone = small(pack), plain(pack, preset)
    told = watch(pack, scene.model, lambda m: in_ranges(scene, m, count), preset)
    assert not told.trace.reason and told.error < 10 * max(alone.error, 1e-6)
    # the negative one, the one that is over and the one that has begun
    assert held(told.trace) <= 1.51 * held(alone.trace)


def unlike(scene, model):
    """A guider that makes its conditioning anew in every evaluation."""
    guider = scene.host.guider(model, scene.positive, scene.negative, scene.cfg)

    class Anew(type(guider)):
        def predict_noise(self, *args, **kwargs):
            for cond in (c for named in self.conds.values() for c in named):
                cond["uuid"] = uuid.uuid4()
            return super().predict_noise(*args, **kwargs)

    guider.__class__ = Anew
    return scene.through(model, guider=guider)


@every
def test_passes_that_never_come_again_are_let_go_and_told_of(pack, preset):
    scene, alone = small(pack), plain(pack, preset)
    told = watch(pack, scene.model, lambda m: unlike(scene, m), preset)
    assert same(told.got, told.wanted)
    assert held(told.trace) <= 2.01 * held(alone.trace)
    assert code_of(RunSummary(told.trace).why) == "passes_new"


@pytest.mark.parametrize("preset", TOKENS)
def test_rising_noise_is_foretold_as_a_whole(pack, preset):
    scene = small(pack)
    told = watch(pack, scene.model, lambda m: rising(scene, m), preset)
    why, computed = foretold(told.trace)
    assert "the noise rises" in why and computed == told.seen.computed < told.evaluations / 2
    assert 0 < told.error < 1e-3


def langevin(scene, model, loops=3):
    """A sampler that stays on each level for some steps."""

    @torch.no_grad()
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for level, below in itertools.pairwise(sigmas):
            for _ in range(loops):
                d = (x - model(x, level * x.new_ones(len(x)), **extra_args)) / level
                x = x - 0.02 * level * d
            x = x + (below - level) * d
        return x

    return scene.through(model, sampler=scene.host.samplers.KSAMPLER(sample))


def restarts(scene, model):
    """Twice back up to more noise in the middle, as a restart does."""
    sigmas = scene.sigmas(model)
    return scene.through(model, sigmas=torch.cat([sigmas[:9], sigmas[5:9], sigmas[6:]]))


def loops_inside(scene, model):
    """A guider that asks the model twice in each evaluation of the sampler, from other latents."""
    guider = scene.host.guider(model, scene.positive, scene.negative, scene.cfg)

    class Twice(type(guider)):
        def predict_noise(self, x, timestep, *args, **kwargs):
            first = super().predict_noise(x, timestep, *args, **kwargs)
            return super().predict_noise(x + 0.01 * (first - x), timestep, *args, **kwargs)

    guider.__class__ = Twice
    return scene.through(model, guider=guider)


@every
@pytest.mark.parametrize(("graph", "times"), [(langevin, 1), (restarts, 1), (loops_inside, 2)])
def test_a_level_that_comes_again_is_the_same_pass(pack, preset, graph, times):
    with as_planned():
        scene, alone = small(pack), plain(pack, preset)
    told = watch(pack, scene.model, lambda m: graph(scene, m), preset)
    trace = told.trace
    assert not trace.reason and not trace.resets
    assert held(trace) <= 1.01 * times * held(alone.trace)
    # as much is left out as of a plain run, and it comes about as close
    assert RunSummary(trace).compute_share < RunSummary(alone.trace).compute_share + 0.08
    assert 0 < told.error < 10 * max(alone.error, 1e-6)


def swapped(network):
    """Another class for a network, of which nothing is known."""
    return type("Swapped", (type(network),), {"__module__": "another.pack"})


@every
def test_a_class_swapped_in_mid_run_passes_through(pack, preset):
    scene = small(pack)
    network = scene.model.model.diffusion_model
    own, other = type(network), swapped(network)
    half = STEPS // 2

    def swap(step, *_):
        if step == half:
            network.__class__ = other

    def sample(model):
        try:
            return scene.sample(model, callback=swap)
        finally:
            network.__class__ = own

    told = watch(pack, scene.model, sample, preset)
    assert told.trace.finished and told.error < 1e-3
    if preset in TOKENS:
        later = told.trace.declined_calls
        assert len(later) == STEPS - half - 1
        assert {code_of(call.note) for call in later} == {"network_swapped"}
        assert "Swapped" in later[0].note and told.trace.reason == ""
    else:
        # another network's answers are not gone on with
        assert told.seen.evaluations[half + 1] == told.bare.evaluations[half + 1]


@pytest.mark.parametrize("preset", TOKENS)
def test_a_class_that_another_clone_has_swapped_is_not_this_ones(pack, preset):
    scene = small(pack)
    model = pack.wan()
    patched, handle = patch(pack, model, preset)
    wanted = scene.sample(patched)
    before = marks(handle.latest)
    other = model.clone()
    other.add_object_patch("diffusion_model.__class__", swapped(model.model.diffusion_model))
    scene.sample(other)
    assert type(model.model.diffusion_model).__name__ == "Swapped"
    # the other clone's class goes when this one is loaded
    assert same(scene.sample(patched), wanted)
    assert marks(handle.latest) == before and not handle.latest.remarks
    # asked for on what will run: that clone's tokens are not known
    behind, handle = patch(pack, other, preset)
    scene.sample(behind)
    assert "Swapped is not known block by block" in foretold(handle.latest)[0]


def test_a_clone_s_class_keeps_no_other_one_from_being_measured(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("folder_paths"), "models_dir", str(tmp_path))
    scene, model = small(pack), pack.wan()
    other = model.clone()
    other.add_object_patch("diffusion_model.__class__", swapped(model.model.diffusion_model))
    scene.sample(other)
    (recorded,) = pack.execute("MotionCacheCalibrate", model)
    scene.sample(recorded)
    assert len(list((tmp_path / "motioncache").iterdir())) == 1
    # asked when the run starts, on what will run
    (behind,) = pack.execute("MotionCacheCalibrate", other)
    with pytest.raises(UnsupportedModelError, match=r"nothing to calibrate: Swapped is not known"):
        scene.sample(behind)


def with_frames(scene, model, count):
    """A wrapper behind ours that gives the network the last frame again, and cuts the answer."""

    def again(executor, x, *args, **kwargs):
        longer = torch.cat([x, x[:, :, -1:].expand(-1, -1, count, -1, -1)], dim=2)
        return executor(longer, *args, **kwargs)[:, :, : x.shape[2]]

    model = model.clone()
    kind = scene.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "again", again)
    return scene.sample(model)


@every
@pytest.mark.parametrize("count", [1, 2])
def test_a_wrapper_that_appends_frames_is_named_and_evaluations_are_whole(pack, preset, count):
    scene, alone = small(pack), plain(pack, preset)
    told = watch(pack, scene.model, lambda m: with_frames(scene, m, count), preset)
    assert not told.trace.reason and set(marks(told.trace)) == {"D", "."}
    assert 0 < told.error < 10 * max(alone.error, 1e-6)
    if preset in TOKENS:
        (remark,) = [r for r in told.trace.remarks if code_of(r) == "frames_added"]
        assert f"with_frames.again makes {3 + count} latent frames of 3" in remark
        assert told.trace.grid == (3 + count, 4, 4)


@pytest.mark.parametrize("preset", TOKENS)
def test_rows_that_are_no_frames_leave_the_run_as_it_is(pack, preset):
    scene = small(pack)

    def wider(executor, x, *args, **kwargs):
        whole = torch.cat([x, x[..., -2:, :]], dim=3)
        return executor(whole, *args, **kwargs)[..., : x.shape[3], :]

    def sample(model):
        model = model.clone()
        kind = scene.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
        model.add_wrapper_with_key(kind, "wider", wider)
        return scene.sample(model)

    told = watch(pack, scene.model, sample, preset)
    assert same(told.got, told.wanted) and told.trace.reason
