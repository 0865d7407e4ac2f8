"""What comes over a wire or out of a file and is not what it should be: an error that says what was
given and what to do, and never the end of a run that has no use for it."""

import functools
import importlib
import json
import math

import pytest
import torch
from motioncache_pack.motioncache_core import (
    ConflictError,
    MotionCacheError,
    ProfileError,
    SettingsError,
)
from motioncache_pack.tests.support.node_runs import options_of, options_with_off


def videos():
    a = torch.rand(3, 21, 33, 3)
    return a, (a + 0.1).clamp(max=1)


@pytest.mark.parametrize("position", [2.0, -0.01, math.nan, math.inf])
def test_a_wipe_beyond_the_picture_is_named(pack, position):
    with pytest.raises(MotionCacheError, match=r"position is .*from 0 \(left\) to 1 \(right\)"):
        pack.execute("MotionCacheCompare", *videos(), "wipe", 10.0, position=position)


@pytest.mark.parametrize("gain", [-3.0, math.nan, math.inf])
def test_a_gain_that_shows_nothing_is_named(pack, gain):
    with pytest.raises(MotionCacheError, match=r"gain is .*above 0, or 0 for what fits"):
        pack.execute("MotionCacheCompare", *videos(), "difference", gain)


@pytest.mark.parametrize("settings", ["balanced", {"policy": "motion"}, 0.4, [1]])
@pytest.mark.parametrize("node", ["MotionCachePatcher", "MotionCacheRay"])
def test_what_are_no_settings_is_named(pack, node, settings):
    model = pack.wan()
    before = options_of(model)
    with pytest.raises(
        SettingsError, match=r"which are no settings.*Connect a MotionCache Settings"
    ):
        pack.execute(node, model, "balanced", settings)
    assert options_of(model) == before


@pytest.mark.parametrize("trace", ["trace", {"runs": 1}, 3])
def test_what_is_no_trace_is_named(pack, trace):
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    with pytest.raises(MotionCacheError, match=r"which is no trace.*Connect the trace output"):
        pack.execute("MotionCacheReport", trace, latent)


def wrapper_of(module, qualname):
    """A function that another pack wraps the model in."""

    def wrapped(apply_model, call):
        return apply_model(call["input"], call["timestep"], **call["c"])

    wrapped.__module__, wrapped.__qualname__ = module, qualname
    return wrapped


# where the functions of public packs lie, and what they are called there
WRAPPERS = [
    ("/x/custom_nodes/ComfyUI-TeaCache.nodes", "TeaCache.apply.<locals>.unet_wrapper", "TeaCache"),
    ("/x/custom_nodes/comfyui-kjnodes.nodes", "WanTeaCacheKJ.patch.<locals>.outer", "TeaCache"),
    ("/x/custom_nodes/ComfyUI-MagCache.nodes", "unet_wrapper_function", "MagCache"),
    ("/x/custom_nodes/Patches_ll.nodes", "fb_cache_predict_noise", "First Block Cache"),
    ("/x/custom_nodes/ComfyUI-TaylorSeer.lite", "outer_wrapper", "TaylorSeer"),
    ("/x/custom_nodes/ComfyUI-CacheDiT.nodes", "wrap", "CacheDiT"),
]


class Callable:
    """Some hang an object on the model."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def method(self, *args, **kwargs):
        return self.function(*args, **kwargs)


@pytest.mark.parametrize(("module", "qualname", "name"), WRAPPERS, ids=lambda value: value)
def test_a_cache_that_leaves_no_option_is_known_by_its_function(pack, module, qualname, name):
    wrapped = wrapper_of(module, qualname)
    kinds = pack.host.patcher_extension.WrappersMP
    by_function, by_key, partly = (pack.wan() for _ in range(3))
    by_function.set_model_unet_function_wrapper(wrapped)
    by_key.add_wrapper_with_key(kinds.DIFFUSION_MODEL, "some", wrapped)
    partly.set_model_unet_function_wrapper(functools.partial(wrapped))
    for model in (by_function, by_key, partly):
        before = options_of(model)
        with pytest.raises(ConflictError, match=rf"{name} is on this model.*{name} or MotionCache"):
            pack.execute("MotionCachePatcher", model, "balanced")
        assert options_of(model) == before


def test_one_behind_is_told_when_the_run_starts(pack):
    patched, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    module, qualname, name = WRAPPERS[0]
    kind = pack.host.patcher_extension.WrappersMP.APPLY_MODEL
    patched.add_wrapper_with_key(kind, "some", wrapper_of(module, qualname))
    with pytest.raises(ConflictError, match=name):
        pack.sample(patched)
    assert handle.latest is None


def test_an_object_is_known_by_its_class(pack):
    kind = type("TeaCacheWrapper", (Callable,), {"__module__": "/x/custom_nodes/pack.nodes"})
    found = kind(wrapper_of("m", "f"))
    for function in (found, found.method):
        model = pack.wan()
        model.set_model_unet_function_wrapper(function)
        with pytest.raises(ConflictError, match="TeaCache"):
            pack.execute("MotionCachePatcher", model, "quality")


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        # a folder above the packs may be called anything
        ("/x/teacache/custom_nodes/other.nodes", "wrap"),
        ("/x/custom_nodes/tiles.nodes", "PromptCache.wrap"),
    ],
)
def test_other_functions_are_no_caches(pack, module, qualname):
    model = pack.wan()
    model.set_model_unet_function_wrapper(wrapper_of(module, qualname))
    patched, handle = pack.execute("MotionCachePatcher", model, "balanced")
    pack.sample(patched)
    assert handle.latest.finished


def test_a_conflict_names_what_is_there(pack):
    named = type("Holder", (), {"name": "LazyCache"})()
    for holder, name, other in ((named, "LazyCache", "EasyCache"), (object(), "EasyCache", "Lazy")):
        model = pack.wan()
        model.model_options["transformer_options"]["easycache"] = holder
        with pytest.raises(ConflictError, match=f"one of them: {name} or MotionCache") as error:
            pack.patch(model)
        assert other not in str(error.value)


def test_off_stands_beside_anything(pack):
    model = pack.wan()
    wanted = pack.sample(model)
    model.model_options["transformer_options"]["easycache"] = object()
    off, handle = pack.execute("MotionCachePatcher", model, "off")
    assert options_with_off(off) == options_of(model) and "off" in handle.latest.reason
    cached, _ = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    again, _ = pack.execute("MotionCachePatcher", cached, "off")
    assert torch.equal(pack.sample(again), pack.sample(cached))
    assert not torch.equal(pack.sample(cached), wanted)


# profiles of models


@pytest.fixture
def folder(pack, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("folder_paths"), "models_dir", str(tmp_path))
    return tmp_path / "motioncache"


def recorded(pack, folder):
    """The profile of the small model."""
    (model,) = pack.execute("MotionCacheCalibrate", pack.wan())
    pack.sample(model)
    (file,) = folder.iterdir()
    return file


DAMAGED = {
    "deeply nested": "[" * 100_000 + "]" * 100_000,
    "deeply nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "empty": "",
}


def huge(file):
    data = json.loads(file.read_text("utf-8"))
    return json.dumps(data).replace(f'"end": {data["end"]}', '"end": 1' + "0" * 400)


def without_use(pack):
    """Runs that go by no profile: by a budget, as published, by no reuse at all."""
    for preset in ("balanced", "motion", "paper"):
        patched, handle = pack.execute("MotionCachePatcher", pack.wan(), preset)
        pack.sample(patched)
        yield handle.latest
    patched, handle = pack.patch(pack.wan(), reuse_threshold=0.0)
    pack.sample(patched)
    yield handle.latest


def test_a_damaged_profile_ends_only_runs_that_go_by_it(pack, folder):
    file = recorded(pack, folder)
    for content in (*DAMAGED.values(), huge(file)):
        file.write_text(content, "utf-8")
        for trace in without_use(pack):
            assert trace.finished and "calibrated" not in trace.distance
        with pytest.raises(ProfileError, match="run MotionCache Calibrate again") as error:
            pack.cached()
        assert str(file) in str(error.value)


def test_a_profile_twice_ends_only_runs_that_go_by_it(pack, folder):
    file = recorded(pack, folder)
    file.with_name(f"mine-{file.name}").write_bytes(file.read_bytes())
    assert all(trace.finished for trace in without_use(pack))
    with pytest.raises(ProfileError, match="2 profiles"):
        pack.cached()


def test_a_budget_claims_no_profile(pack, folder):
    file = recorded(pack, folder)
    traces = dict(zip(("balanced", "motion", "paper", "never"), without_use(pack), strict=True))
    said = {name: [w for w in trace.why if file.name in w] for name, trace in traces.items()}
    assert said["motion"] == said["balanced"] == said["never"] == []
    (why,) = said["paper"]
    assert "is not used" in why and "preset paper is as published" in why
    assert traces["paper"].distance == "input change"
    _, trace = pack.cached()
    assert [w for w in trace.why if file.name in w] and file.name in trace.distance
