"""Recording: what is noted of a run, by hand and on the shipped model."""

import itertools

import pytest
import torch
from motioncache_pack.motioncache_core import Recorder, UnsupportedModelError
from motioncache_pack.motioncache_core.demo import checkpoint, clips, scenes
from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, sample
from motioncache_pack.motioncache_core.policy.model_profile import ModelProfile
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.tests.support.toy_models import DoublingNet, class_named

LEVELS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1)


def call(recorder, network, x, sigma, branches=("cond",), options=None):
    t = torch.full((x.shape[0],), 1000.0 * sigma)

    def run(given):
        return network(x, t, transformer_options=given)

    return recorder.evaluate(ModelCall(network, run, x, t, branches, options or {}))


def clip(value, rows=1, frames=3):
    return torch.full((rows, 2, frames, 2, 2), float(value))


def test_changes_by_hand():
    """Two blocks that double their input: what they add is three times the input."""
    network, recorder = DoublingNet(), Recorder()
    inputs = (1.0, 1.5, 1.2, 2.4, 2.4, 0.6, 0.9)
    for value, sigma in zip(inputs, LEVELS, strict=True):
        assert torch.equal(call(recorder, network, clip(value), sigma), 4 * clip(value))
    found = recorder.changes()
    relative = [abs(b - a) / a for a, b in itertools.pairwise(inputs)]
    assert found.sigmas == pytest.approx(LEVELS, abs=1e-6)
    assert found.input_change == pytest.approx(relative, abs=1e-5)
    assert found.output_change == pytest.approx(relative, abs=1e-5)
    assert found.embedding_change == pytest.approx([0.0] * 6)


def test_the_modulation_is_measured():
    network, recorder = DoublingNet(timed=True), Recorder()
    for sigma in LEVELS:
        call(recorder, network, clip(1), sigma)
    wanted = [(a - b) / a for a, b in itertools.pairwise(LEVELS)]
    assert recorder.changes().embedding_change == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("apart", [False, True])
def test_branches_are_averaged_whichever_way_they_come(apart):
    network, recorder = DoublingNet(), Recorder()
    for i, sigma in enumerate(LEVELS):
        uncond, cond = clip(1 + 0.1 * i), clip(2 + 0.6 * i)
        if apart:
            call(recorder, network, cond, sigma, ("cond",))
            call(recorder, network, uncond, sigma, ("uncond",))
        else:
            call(recorder, network, torch.cat([uncond, cond]), sigma, ("uncond", "cond"))
    found = recorder.changes()
    # the mean of the branches' shares, not the share of all their values
    for changes in (found.output_change, found.input_change):
        assert changes[0] == pytest.approx((0.1 + 0.3) / 2, abs=1e-5)


def test_a_level_that_is_evaluated_twice_is_no_way_travelled():
    network, recorder = DoublingNet(), Recorder()
    call(recorder, network, clip(1), LEVELS[0])
    for sigma in LEVELS[1:]:
        # the first answer at a level is corrected by the second
        call(recorder, network, clip(5), sigma)
        call(recorder, network, clip(2), sigma)
    found = recorder.changes()
    assert found.sigmas == pytest.approx(LEVELS, abs=1e-6)
    assert found.output_change == pytest.approx([4.0, *[1.5] * 5], abs=1e-5)


def test_patches_of_others_stay_in_force():
    calls = []

    def patch(args, extra):
        calls.append(args["img"].shape[1])
        out = extra["original_block"](args)
        return {**out, "img": out["img"] + 1}

    network, recorder = DoublingNet(), Recorder()
    options = {"patches_replace": {"dit": {("double_block", 0): patch}}}
    for sigma in LEVELS:
        out = call(recorder, network, clip(1), sigma, options=options)
        assert torch.equal(out, 2 * (2 * clip(1) + 1))
    assert len(calls) == len(LEVELS) and recorder.changes() is not None
    assert options["patches_replace"]["dit"] == {("double_block", 0): patch}


def test_too_few_evaluations_are_none_and_closing_drops_all():
    network, recorder = DoublingNet(), Recorder()
    assert recorder.changes() is None and not recorder.reached
    for sigma in LEVELS[:5]:
        call(recorder, network, clip(1), sigma)
    assert recorder.reached and recorder.changes() is None
    call(recorder, network, clip(1), 0.25)
    assert recorder.changes() is not None
    recorder.close()
    assert recorder.changes() is None


def test_what_cannot_be_measured_is_told_why():
    network, recorder = DoublingNet(), Recorder()
    call(recorder, network, clip(1), 1.0)
    with pytest.raises(UnsupportedModelError, match=r"from 1 clip\(s\) to 2"):
        call(recorder, network, clip(1, rows=2), 0.9)
    options = {"context_window": object()}
    with pytest.raises(UnsupportedModelError, match="context windows"):
        call(recorder, network, clip(1), 0.9, options=options)
    unchecked = class_named("comfy.ldm.wan.model", "WanModel_X")()
    with pytest.raises(UnsupportedModelError, match="WanModel_X is not known block by block"):
        call(recorder, unchecked, clip(1), 0.9)


def recorded(scene, steps, seed):
    """A recording of the shipped model."""
    options = SampleOptions(steps=steps, shift=checkpoint.SHIFT)
    clip, recorder = clips.clip(scenes.SCENES[scene], 5), Recorder()
    model, noise = checkpoint.load(), clip.noise(seed)
    sample(model, *clip.text, noise, options, recorder, conditions=clip.conditions)
    return recorder.changes()


def test_a_profile_foretells_the_change_in_another_scene():
    """The unit of its distances, and so of the thresholds: relative change of the answer."""
    other = recorded("two discs crossing", 12, 1)
    table = ModelProfile("m", "f", recorded("disc to the right", 16, 0)).distance()
    measure = table.to(torch.device("cpu"))
    signals = [measure.signal(None, None, torch.tensor(s)) for s in other.sigmas]
    told = [float(measure.between(a, b)) for a, b in itertools.pairwise(signals)]
    # 11% apart at most when this was written
    assert told == pytest.approx(list(other.output_change), rel=0.3)
    assert sum(told) == pytest.approx(sum(other.output_change), rel=0.2)
    # the change of the input is another quantity: 0.45 to 1.5 of it
    ratios = [a / b for a, b in zip(other.input_change, other.output_change, strict=True)]
    assert max(ratios) > 1.5 * min(ratios)
