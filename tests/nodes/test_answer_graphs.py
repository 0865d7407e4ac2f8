"""Whole evaluations foretold in every kind of graph: the share that is asked for is computed, the
result is as close as in a plain one, nothing is left, and without reuse nothing changes."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.answer_runs import (
    STEPS,
    patch,
    plain_error,
    same,
    small,
    squared,
    trained,
    unchanged,
    watch,
)
from motioncache_pack.tests.support.node_runs import marks


def plain(scene, model):
    return scene.sample(model)


def unguided(scene, model):
    return scene.sample(model, cfg=1.0)


def other_length(scene, model):
    """Prompts that cannot share a call."""
    ((text, given),) = scene.negative
    return scene.sample(model, negative=[[torch.cat([text, text[:, :2]], dim=1), given]])


def combined(scene, model):
    """ConditioningCombine of two prompts."""
    ((text, given),) = scene.positive
    other = {**given, "strength": 0.5}
    return scene.sample(model, positive=[[text, given], [other_text(scene), other]])


def other_text(scene):
    ((text, _),) = scene.positive
    return scene.host.text(4)[0][0][:, : text.shape[1]]


def masked(scene, model):
    """SetLatentNoiseMask: one half is sampled anew, the other one stays."""
    mask = torch.zeros(1, 1, *scene.latent.shape[2:])
    mask[..., scene.latent.shape[-1] // 2 :] = 1.0
    return scene.sample(model, latent=start(scene), noise_mask=mask)


def start(scene):
    """Latents to go on from."""
    rng = torch.Generator().manual_seed(8)
    shape = scene.latent.shape
    return torch.randn(*shape[:-2], 1, 1, generator=rng).expand(shape).clone()


def denoised_in_part(scene, model):
    return scene.sample(model, latent=start(scene), denoise=0.6)


def second_pass(scene, model):
    """A second pass of the prompt with a block left out, as of skip-layer guidance."""
    host, clone = scene.host, model.clone()
    batch = host.samplers.calc_cond_batch

    def skip(args, extra):
        return {"img": args["img"]}

    def guide(args):
        options = dict(args["model_options"])
        inner = dict(options["transformer_options"])
        inner["patches_replace"] = {"dit": {("double_block", 1): skip}}
        options["transformer_options"] = inner
        (weak,) = batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 0.5 * (args["cond_denoised"] - weak)

    clone.model_options["sampler_post_cfg_function"] = [guide]
    return scene.sample(clone)


def perturbed(scene, model):
    """The same by something that leaves no mark: the second pass is known by its place."""
    host, clone = scene.host, model.clone()
    batch = host.samplers.calc_cond_batch

    def guide(args):
        weak = [{**c, "strength": 1.0} for c in args["cond"]]
        (again,) = batch(args["model"], [weak], args["input"], args["sigma"], args["model_options"])
        return args["denoised"] + 0.5 * (args["cond_denoised"] - again)

    clone.model_options["sampler_post_cfg_function"] = [guide]
    return scene.sample(clone)


def tiled(scene, model):
    """A model_function_wrapper that calls the model for each half of the picture."""
    clone = model.clone()

    def tiles(apply_model, call):
        x, c = call["input"], call["c"]
        images = c.get("c_concat")
        made = []
        for part in (slice(None, x.shape[-1] // 2), slice(x.shape[-1] // 2, None)):
            own = c if images is None else {**c, "c_concat": images[..., part]}
            made.append(apply_model(x[..., part], call["timestep"], **own))
        return torch.cat(made, dim=-1)

    clone.set_model_unet_function_wrapper(tiles)
    return scene.sample(clone)


def rising(scene, model):
    """Unsampling: from a picture up to noise."""
    sigmas = scene.sigmas(model).flip(0)[:-1].clone()
    sigmas[0] = 1e-4
    latent = start(scene)
    return scene.through(model, sigmas=sigmas, latent=latent, noise=torch.zeros_like(latent))


def equal_levels(scene, model):
    sigmas = scene.sigmas(model)
    return scene.through(model, sigmas=torch.cat([sigmas[:-1], sigmas[-2:-1], sigmas[-2:-1]]))


def left_over(scene, model):
    """The high-noise half of two samplers."""
    return scene.sample(model, steps=24, last_step=14)


def two_stages(scene, model):
    return scene.sample(model, steps=STEPS // 2 + 1, sampler="heun")


def in_turns(scene, model, percent=0.4):
    """A prompt for the first part of the schedule, another one for the rest."""
    ((text, given),) = scene.positive
    early, late = {**given, "end_percent": percent}, {**given, "start_percent": percent}
    return scene.sample(model, positive=[[text, early], [other_text(scene), late]])


def batch_of_two(scene, model):
    return scene.sample(model, latent=scene.latent.repeat(2, 1, 1, 1, 1))


GRAPHS = [
    plain, unguided, other_length, combined, masked, denoised_in_part, second_pass, perturbed,
    tiled, rising, equal_levels, left_over, two_stages, batch_of_two,
]  # fmt: skip
# of these a trained model tells more
TRAINED = [plain, masked, second_pass, tiled, rising]
# the schedule is another one: two evaluations are spent on steps that go nowhere; or from clean to
# noise, where what is counted is noise over what is left of the picture
FACTOR = {equal_levels: 4, rising: 15}


def by_name(graphs):
    return pytest.mark.parametrize("graph", graphs, ids=lambda graph: graph.__name__)


@by_name(GRAPHS)
def test_the_share_is_computed_and_the_rest_comes_close(pack, nothing_left, graph):
    scene = small(pack)
    told = watch(pack, scene.model, lambda model: graph(scene, model))
    told.check()
    assert 0 < told.error < FACTOR.get(graph, 2) * plain_error(scene)


@by_name(TRAINED)
def test_a_trained_model_comes_as_close_in_it_as_in_a_plain_one(pack, nothing_left, graph):
    scene = trained(pack)
    told = watch(pack, scene.model, lambda model: graph(scene, model))
    told.check()
    # clips differ by as much
    assert 0 < told.error < max(4, FACTOR.get(graph, 0)) * plain_error(scene)


@by_name([*GRAPHS, in_turns])
def test_without_reuse_nothing_changes(pack, graph):
    scene = replace(small(pack), steps=10)
    unchanged(pack, scene.model, lambda model: graph(scene, model))


def test_a_prompt_that_takes_over_is_computed_first(pack, nothing_left):
    scene = small(pack)
    patched, handle = patch(pack, scene.model)
    scene.sample(patched)
    # at an evaluation in the middle that would have been foretold
    switch = marks(handle.latest).index(".", STEPS // 2)
    percent = (switch - 0.5) / STEPS
    told = watch(pack, scene.model, lambda model: in_turns(scene, model, percent))
    # both prompts share a call, so that the other one is computed once more, too
    told.check(extra=1)
    noted = [k for k, e in enumerate(told.trace.evaluations) if e.calls[0].note]
    assert noted == [switch] and marks(told.trace)[switch] == "."
    assert code_of(told.trace.evaluations[switch].calls[0].note) == "new_pass"
    assert 0 < told.error < 4 * plain_error(scene)


def test_prompts_in_one_call_or_two_are_alike(pack, nothing_left, monkeypatch):
    scene = small(pack)
    together = watch(pack, scene.model, scene.sample)
    pack.host.run_short_of_memory(monkeypatch)
    apart = watch(pack, scene.model, scene.sample)
    assert apart.bare.evaluations == together.bare.evaluations
    apart.check()
    assert [len(e.calls) for e in apart.trace.evaluations] == [2] * STEPS
    assert squared(apart.got, together.got) < 1e-8


def test_samples_of_a_batch_are_their_own(pack):
    scene = small(pack)
    told = watch(pack, scene.model, lambda model: batch_of_two(scene, model))
    for got, wanted in zip(told.got, told.wanted, strict=True):
        assert squared(got, wanted) < 4 * plain_error(scene)
    assert squared(told.got[0], told.wanted[1]) > 0.5


def test_what_a_mask_keeps_is_kept(pack):
    scene = small(pack)
    told = watch(pack, scene.model, lambda model: masked(scene, model))
    half = scene.latent.shape[-1] // 2
    assert squared(told.got[..., :half], told.wanted[..., :half]) < 1e-9
    assert 0 < squared(told.got[..., half:], told.wanted[..., half:]) < 4 * plain_error(scene)


def test_two_samplers_in_a_row_as_two_experts(pack, nothing_left):
    high, low = small(pack), small(pack, 1)
    sigmas = replace(high, steps=24).sigmas()

    def second(model, latent):
        nothing = torch.zeros_like(latent)
        return low.through(model, sigmas=sigmas[12:], latent=latent, noise=nothing)

    first = watch(pack, high.model, lambda model: high.through(model, sigmas=sigmas[:13]))
    then = watch(pack, low.model, lambda model: second(model, first.got))
    for told in (first, then):
        told.check()
        assert told.evaluations == 12 and 0 < told.error < 4 * plain_error(high)
    assert squared(then.got, second(low.model, first.wanted)) < 8 * plain_error(high)


def test_a_second_run_is_the_first_one_again(pack):
    scene = small(pack)
    patched, handle = patch(pack, scene.model)
    assert same(second_pass(scene, patched), second_pass(scene, patched))
    assert same(scene.sample(patched), scene.sample(patch(pack, scene.model)[0]))
    assert len(handle.runs) == 3
