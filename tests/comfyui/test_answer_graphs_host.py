"""Whole evaluations foretold in graphs that only the real ComfyUI has: windows, areas, control
nets, hooks, guiders of other kinds. `tests/nodes/test_answer_graphs.py` has the others."""

import importlib
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.answer_runs import (
    SHARE,
    STEPS,
    plain_error,
    same,
    small,
    squared,
    unchanged,
    watch,
)
from motioncache_pack.tests.support.node_runs import small_weights

pytestmark = pytest.mark.comfy


def extra(name):
    return importlib.import_module(f"comfy_extras.nodes_{name}")


def windows(scene, model, schedule="standard_static", anchored=True, **how):
    module, model = scene.host.context_windows, model.clone()
    model.model_options["context_handler"] = module.IndexListContextHandler(
        module.get_matching_context_schedule(schedule),
        module.get_matching_fuse_method("pyramid"),
        context_length=3, context_overlap=1, dim=2, freenoise=False, causal_window_fix=anchored,
        **how,
    )  # fmt: skip
    module.create_prepare_sampling_wrapper(model)
    return scene.sample(model, latent=scene.host.latent(frames=7, height=4, width=4))


def in_windows(scene, model):
    return windows(scene, model)


def in_batched_windows(scene, model):
    return windows(scene, model, "batched", anchored=False)


def area(scene, model):
    """A prompt for a part of the picture beside that of the whole."""
    text = scene.host.text(4)[0][0]
    part = [text, {"area": (8, 4, 0, 4), "strength": 0.7, "set_area_to_bounds": False}]
    return scene.sample(model, positive=[*scene.positive, part])


def two_areas(scene, model):
    """Of one size: what is computed of the negative prompt for them is the same in name."""
    parts = [
        [scene.host.text(4 + k)[0][0], {"area": (8, 4, 0, 4 * k), "strength": 0.7}] for k in (0, 1)
    ]
    return scene.sample(model, positive=[*scene.positive, *parts])


def control(scene, model):
    """A control net on the positive prompt; it puts the prompts into calls of their own."""
    base = scene.host.controlnet.ControlBase

    class Stub(base):
        def get_control(self, x, t, cond, batched_number, transformer_options):
            return {"input": [0.1 * x.mean() * torch.ones(1)]}

        def get_models(self):
            return []

        def copy(self):
            return self

    ((text, _),) = scene.positive
    return scene.sample(model, positive=[[text, {"control": Stub()}]])


def skip_layer(scene, model):
    node = extra("slg").SkipLayerGuidanceDiT
    (guided,) = node.execute(model, 1.0, 0.0, 1.0, "1", "", 0.0).result
    return scene.sample(guided)


def dual_cfg(scene, model):
    guider = extra("custom_sampler").Guider_DualCFG(model)
    guider.set_conds(scene.positive, scene.host.text(4), scene.negative)
    guider.set_cfg(2.0, 1.5, nested=True)
    return scene.through(model, guider=guider)


def basic(scene, model):
    guider = extra("custom_sampler").Guider_Basic(model)
    guider.set_conds(scene.positive)
    return scene.through(model, guider=guider)


def dual_model(scene, model):
    """The negative prompt on a model of its own."""
    guider = extra("custom_sampler").Guider_DualModel(model, scene.pack.wan(1))
    guider.set_conds(scene.positive, scene.negative)
    guider.set_cfg(scene.cfg)
    return scene.through(model, guider=guider)


def uni_pc(scene, model):
    return scene.sample(model, sampler="uni_pc")


def multi_step(scene, model):
    return scene.sample(model, sampler="res_multistep")


def three_stages(scene, model):
    return scene.sample(model, sampler="dpm_fast")


def rescaled(scene, model):
    (rescaled,) = extra("model_advanced").RescaleCFG().patch(model, 1.0)
    return scene.sample(rescaled)


def hooked(scene, model, *keyframes):
    """A LoRA on the positive prompt alone, by hooks."""
    hooks = scene.host.hooks
    rng, file = torch.Generator().manual_seed(4), {}
    for key, weight in small_weights().items():
        if key.startswith("blocks.") and weight.ndim == 2:
            name = f"diffusion_model.{key.removesuffix('.weight')}"
            file[f"{name}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=rng) / 12
            file[f"{name}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=rng) / 12
    group = hooks.create_hook_lora(file, 1.0, 0.0)
    if keyframes:
        times = hooks.HookKeyframeGroup()
        for strength, start in keyframes:
            times.add(hooks.HookKeyframe(strength, start_percent=start))
        group.set_keyframes_on_hooks(times)
    return scene.sample(model, positive=hooks.set_hooks_for_conditioning(scene.positive, group))


def lora_hook(scene, model):
    return hooked(scene, model)


def lora_keyframes(scene, model):
    return hooked(scene, model, (1.0, 0.0), (0.0, 0.4))


GRAPHS = [
    in_windows, in_batched_windows, area, two_areas, control, skip_layer, dual_cfg,
    basic, dual_model, uni_pc, multi_step, three_stages, rescaled, lora_hook,
    lora_keyframes,
]  # fmt: skip
by_name = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
# a second network differs from the first one more than two prompts do
FACTOR = {dual_model: 10}


@by_name
def test_the_share_is_computed_and_the_rest_comes_close(pack, nothing_left, graph):
    scene = small(pack)
    told = watch(pack, scene.model, lambda model: graph(scene, model))
    told.check()
    assert 0 < told.error < FACTOR.get(graph, 2) * plain_error(scene)


@pytest.mark.parametrize("graph", [skip_layer, area, dual_cfg, rescaled, lora_hook, lora_keyframes])
def test_these_graphs_are_not_plain_ones(pack, graph):
    # else they would say nothing
    scene = replace(small(pack), steps=3)
    plain = scene.sample(scene.model)
    assert squared(graph(scene, scene.model), plain) > 1e-7


@by_name
def test_without_reuse_nothing_changes(pack, graph):
    scene = replace(small(pack), steps=9)
    unchanged(pack, scene.model, lambda model: graph(scene, model))


def test_windows_that_move_pass_through(pack):
    scene = small(pack)
    told = watch(
        pack, scene.model, lambda m: windows(scene, m, "looped_uniform", context_stride=2)
    )  # fmt: skip
    assert same(told.got, told.wanted)
    assert code_of(told.trace.reason) == "windows_move"
    assert told.seen.evaluations == told.bare.evaluations


# the area and the prompt without one, each for a part of the run; where the area is the last,
# there is no prompt outside of it from then on, which magnifies what differs
@pytest.mark.parametrize(
    ("in_area", "elsewhere"),
    [
        ({"start_percent": 0.4}, {"end_percent": 0.4}),
        ({"end_percent": 0.6}, {"start_percent": 0.6}),
    ],
    ids=["come", "go"],
)
def test_areas_that_come_and_go_in_mid_run(pack, nothing_left, in_area, elsewhere):
    scene = small(pack)
    prompts = [[scene.host.text(4)[0][0], {"area": (8, 4, 0, 4), **in_area}],
               [scene.positive[0][0], elsewhere]]  # fmt: skip
    prompts.sort(key=lambda prompt: "start_percent" in prompt[1])
    told = watch(pack, scene.model, lambda m: scene.sample(m, positive=prompts))
    assert told.seen.computed <= round(SHARE * STEPS) + 2
    assert 0 < told.error < 100 * plain_error(scene)
