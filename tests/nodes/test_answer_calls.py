"""Whole evaluations foretold where other nodes call the model, compile it or have it break."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.engine.answers.pass_state import PassState
from motioncache_pack.tests.nodes.test_compiled import compiled, wan
from motioncache_pack.tests.support.answer_runs import (
    patch,
    plain_error,
    same,
    small,
    unchanged,
    watch,
)
from motioncache_pack.tests.support.node_runs import marks, options_of, small_weights
from torch._dynamo.testing import CompileCounterWithBackend


def wrapped(model, function):
    """A clone of the model that is called by `function(apply_model, x, timestep, conditions)`."""
    clone = model.clone()
    clone.set_model_unet_function_wrapper(
        lambda apply_model, call: function(apply_model, call["input"], call["timestep"], call["c"])
    )
    return clone


def in_parts(apply_model, x, timestep, c):
    """A call for each row, with the options of all of them."""
    rows = range(len(x))
    return torch.cat(
        [
            apply_model(
                x[k : k + 1],
                timestep[k : k + 1],
                **{**c, "c_crossattn": c["c_crossattn"][k : k + 1]},
            )
            for k in rows
        ]
    )


def test_a_node_that_takes_a_call_apart(pack, nothing_left):
    scene = small(pack)
    told = watch(pack, scene.model, lambda model: scene.sample(wrapped(model, in_parts)))
    assert told.seen.computed == 6
    assert marks(told.trace).count("D") == 6
    assert 0 < told.error < 2 * plain_error(scene)


@pytest.mark.parametrize("names", [["uuids"], ["uuids", "cond_or_uncond"]], ids=str)
def test_a_node_that_does_not_say_what_its_calls_are_for(pack, names):
    scene = small(pack)

    def silent(apply_model, x, timestep, c):
        options = {k: v for k, v in c["transformer_options"].items() if k not in names}
        return apply_model(x, timestep, **{**c, "transformer_options": options})

    def run(model):
        return scene.sample(wrapped(model, silent))

    assert same(run(patch(pack, scene.model)[0]), run(scene.model))


@pytest.mark.parametrize("first", ["tiles", "whole"])
def test_tiles_in_one_part_of_the_run(pack, first):
    """Calls of another size from a step on: what they were foretold from does not fit any more."""
    scene = small(pack)

    def tiles(apply_model, x, timestep, c):
        if (float(timestep[0]) > 0.8) == (first == "whole"):
            return apply_model(x, timestep, **c)
        half = x.shape[-1] // 2
        return torch.cat(
            [apply_model(part, timestep, **c) for part in (x[..., :half], x[..., half:])], dim=-1
        )

    told = watch(pack, scene.model, lambda model: scene.sample(wrapped(model, tiles)))
    assert told.seen.computed <= 7
    assert 0 < told.error < 10 * plain_error(scene)


def test_a_sampler_that_reports_without_a_look(pack):
    """The host always hands its samplers something to report to."""
    scene = small(pack)

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        rows = x.new_ones([x.shape[0]])
        for i, (here, there) in enumerate(pairwise(sigmas)):
            denoised = model(x, here * rows, **(extra_args or {}))
            callback({"x": x, "i": i, "sigma": here, "sigma_hat": here, "denoised": denoised})
            x = x + (x - denoised) / here * (there - here)
        return x

    sampler = scene.host.samplers.KSAMPLER(sample)
    told = watch(pack, scene.model, lambda model: scene.through(model, sampler))
    told.check()


@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_model_that_is_compiled_as_a_whole(pack, nothing_left, order):
    scene = replace(small(pack), model=wan(pack))
    counter = CompileCounterWithBackend("eager")

    def whole(model):
        return compiled(model, ["diffusion_model"], counter)

    base = whole(scene.model) if order == "before" else scene.model
    patched, handle = patch(pack, base)
    patched = whole(patched) if order == "behind" else patched
    got = scene.sample(patched)
    assert marks(handle.latest).count("D") == 6 and not handle.latest.reason
    count = counter.frame_count
    assert count > 0
    assert same(scene.sample(patched), got)
    # a run brings nothing that the compiled code goes by
    assert counter.frame_count == count
    assert same(got, scene.sample(patch(pack, scene.model)[0]))


class Unknown(DemoWan):
    """A network of a name that no family has, and that runs no wrapper of its own."""

    runs_wrappers, dtype = True, torch.float32

    def forward(self, x, timestep, context=None, clip_fea=None, time_dim_concat=None,
                transformer_options=None, **kwargs):  # fmt: skip
        return super().forward(x, timestep, context, clip_fea, time_dim_concat,
                               transformer_options)  # fmt: skip


@pytest.mark.parametrize("preset", ["balanced", "motion"])
def test_a_network_that_is_not_known(pack, nothing_left, preset):
    model = pack.host.patcher(Unknown.from_state_dict(dict(small_weights())))
    scene = replace(small(pack), model=model)
    told = watch(pack, model, scene.sample, preset, where="apply_model")
    told.check()
    assert 0 < told.error < 2 * plain_error(small(pack))
    assert [code_of(r) for r in told.trace.remarks] == ["tokens_unknown"] * (preset == "motion")
    assert "Unknown is not known" in told.trace.remarks[0] if preset == "motion" else True
    unchanged(pack, model, replace(scene, steps=9).sample)


@pytest.mark.parametrize("how", ["interrupted", "out of memory"])
def test_a_run_that_breaks_leaves_nothing(pack, nothing_left, how):
    scene, left = small(pack), [4]
    error = (
        pack.host.model_management.InterruptProcessingException
        if how == "interrupted"
        else torch.OutOfMemoryError
    )
    patched, handle = patch(pack, scene.model)
    wanted, before = scene.sample(patched), options_of(patched)

    def breaks(*_):
        left[0] -= 1
        if left[0] == 0:
            raise error

    hook = scene.model.model.diffusion_model.blocks[1].register_forward_pre_hook(breaks)
    try:
        with pytest.raises(error) as caught:
            scene.sample(patched)
    finally:
        hook.remove()
    # the frames of the blocks hold what they were working on
    del caught
    assert options_of(patched) == before and len(handle.runs) == 1
    assert same(scene.sample(patched), wanted)


@pytest.mark.parametrize("when", [1, 3, 9])
def test_out_of_memory_beside_the_answers(pack, nothing_left, when, monkeypatch):
    """They go to the host's memory, and the run as it would have gone."""
    scene, room, asked = small(pack), PassState._with_room, []
    wanted = scene.sample(patch(pack, scene.model)[0])

    def short(self, make):
        def tight(place):
            asked.append(place)
            if len(asked) == when:
                raise torch.OutOfMemoryError("full")
            return make(place)

        return room(self, tight)

    monkeypatch.setattr(PassState, "_with_room", short)
    told = watch(pack, scene.model, scene.sample)
    told.check()
    assert [code_of(r) for r in told.trace.remarks] == ["out_of_memory_answers"]
    assert same(told.got, wanted)


def test_the_report_and_the_map_of_calls_of_other_sizes(pack):
    scene = small(pack)

    def tiles(apply_model, x, timestep, c):
        parts = x.split((6, 2), dim=-1)
        return torch.cat([apply_model(part, timestep, **c) for part in parts], dim=-1)

    patched, handle = patch(pack, scene.model)
    scene.sample(wrapped(patched, tiles))
    words, picture, data = pack.execute("MotionCacheReport", handle, {})
    assert "6 of the sampler's 16 evaluations are computed" in words
    assert picture.shape[-1] == 3 and json.loads(data)
    (maps,) = pack.execute("MotionCacheMotionMap", handle, {}, "motion", -1, "magma", 0.5)
    assert len(maps) == scene.latent.shape[2]
