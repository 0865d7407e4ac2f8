"""What the pack takes for granted of ComfyUI that changes between versions.

Read in the public files of versions up to 0.38.1, and held here on the one that runs: what newer
ones do differently is done to it.
"""

import inspect
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.tests.comfyui.test_masks_and_areas_host import five_b, masked
from motioncache_pack.tests.support.answer_runs import patch, same, small
from motioncache_pack.tests.support.node_runs import marks

pytestmark = pytest.mark.comfy


# from 0.34 on


def in_containers(host, monkeypatch):
    """Wan's blocks hand over queries, keys and values in containers, which attention empties, and
    name the number of heads."""
    attention = host.ldm.modules.attention
    wan, given = host.ldm.wan.model, []

    def contained(q, k, v, heads, **how):
        held = [attention.AttentionTensorContainer(t) for t in (q, k, v)]
        given.append(len(held))
        return attention.optimized_attention(*held, heads=heads, **how)

    monkeypatch.setattr(wan, "optimized_attention", contained)
    return given


@pytest.mark.parametrize("preset", ["balanced", "motion", "paper"])
def test_queries_and_keys_in_containers(pack, monkeypatch, preset):
    scene = small(pack)
    patched, handle = patch(pack, scene.model, preset)
    wanted = scene.sample(patched)
    given = in_containers(pack.host, monkeypatch)
    assert same(scene.sample(patched), wanted) and given
    assert preset != "motion" or "p" in marks(handle.latest)


def test_attention_that_a_checkpoint_prefers_is_named_to_the_override(pack, monkeypatch):
    # a block may name a function of its own, which an override goes before
    scene, attention = small(pack), pack.host.ldm.modules.attention
    patched, _ = patch(pack, scene.model, "motion")
    wanted = scene.sample(patched)

    def preferring(q, k, v, heads, **how):
        own = SimpleNamespace(function=attention.attention_basic)
        return attention.optimized_attention(
            q, k, v, heads=heads, preferred_attention=own, low_precision_attention=False, **how
        )

    monkeypatch.setattr(pack.host.ldm.wan.model, "optimized_attention", preferring)
    assert same(scene.sample(patched), wanted)


# in all versions that were read


OUTER_SAMPLE = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback",
                "disable_pbar", "seed", "latent_shapes")  # fmt: skip
PREDICT_NOISE = ("x", "timestep", "model_options", "seed")
APPLY_MODEL = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options", "kwargs")
DIFFUSION_MODEL = ("x", "timestep", "context", "clip_fea", "time_dim_concat",
                   "transformer_options", "kwargs")  # fmt: skip


def test_what_wrappers_are_called_with(host, current):
    def named(function):
        return tuple(name for name in inspect.signature(function).parameters if name != "self")

    assert named(host.samplers.CFGGuider.outer_sample) == OUTER_SAMPLE
    assert named(host.samplers.CFGGuider.predict_noise) == PREDICT_NOISE
    assert named(host.model_base.BaseModel._apply_model) == APPLY_MODEL
    assert named(host.ldm.wan.model.WanModel._forward) == DIFFUSION_MODEL


def at_the_start(scene, model, **how):
    """The guider as a wrapper around a run finds it."""
    found = []

    def look(executor, *args, **kwargs):
        guider = executor.class_obj
        found.append({
            "wrappers": guider.model_options["transformer_options"]["wrappers"],
            "conds": [dict(c) for named in guider.conds.values() for c in named],
            "kind": guider.model_patcher.get_model_object("diffusion_model.__class__"),
            "now": type(guider.model_patcher.model.diffusion_model),
        })  # fmt: skip
        return executor(*args, **kwargs)

    model = model.clone()
    kind = scene.host.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.add_wrapper_with_key(kind, "look", look)
    scene.sample(model, steps=1, **how)
    return found[0]


def test_wrappers_and_ranges_are_known_before_a_run(pack):
    scene = small(pack)
    model = scene.model.clone()
    kind = pack.host.patcher_extension.WrappersMP.APPLY_MODEL

    def mine(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(kind, "mine", mine)
    ((text, _),) = scene.positive
    found = at_the_start(scene, model, positive=[[text, {"end_percent": 0.4}]])
    assert found["wrappers"][kind]["mine"] == [mine]
    assert sorted(c.get("end_percent", 1.0) for c in found["conds"]) == [0.4, 1.0]
    assert all("uuid" in c and "timestep_end" not in c for c in found["conds"])


def test_another_clone_s_class_is_there_until_this_one_is_loaded(pack):
    scene, model = small(pack), pack.wan()
    own = type(model.model.diffusion_model)
    other = model.clone()
    swapped = type("Swapped", (own,), {"__module__": "another.pack"})
    other.add_object_patch("diffusion_model.__class__", swapped)
    scene.sample(other, steps=1)
    found = at_the_start(scene, model)
    assert (found["now"], found["kind"]) == (swapped, own)
    assert type(model.model.diffusion_model) is own


def test_the_sampler_s_noise_level_is_in_the_options_whatever_the_timesteps(pack):
    scene, seen = five_b(pack), []
    model = scene.model.clone()

    def look(executor, x, timestep, *args, **kwargs):
        options = next(
            o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o
        )
        seen.append((options["sigmas"].tolist(), timestep[0].flatten().tolist()))
        return executor(x, timestep, *args, **kwargs)

    kind = pack.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "look", look)
    masked(scene, model, "half of the picture")
    levels = scene.sigmas()[:-1]
    assert torch.allclose(torch.tensor([s[0] for s, _ in seen]), levels)
    # a timestep for each frame, scaled by what of the frame is sampled
    assert all(len(t) == 3 for _, t in seen)
    halves = torch.tensor([t[0] for _, t in seen])
    assert torch.allclose(halves, 500 * levels, rtol=1e-4)
