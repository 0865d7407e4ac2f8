"""Models that a compile node has compiled: by blocks their tokens are told apart, as a whole their
evaluations are foretold."""

import importlib
import logging
import warnings

import pytest
import torch
from motioncache_pack.motioncache_core import UnsupportedModelError
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.forcing_runs import by_host, clip, error
from motioncache_pack.tests.support.node_runs import (
    LAYERS,
    foretold,
    marks,
    options_of,
    small_weights,
)
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

BLOCKS = [f"diffusion_model.blocks.{i}" for i in range(LAYERS)]
# enough to be cached, few enough to be quick
STEPS = 9
WHOLE = r"compiled as a whole.*Compile the blocks instead.*or remove the compile node"

orders = pytest.mark.parametrize("order", ["before", "behind"])


def wan(pack):
    """A small Wan that runs its DIFFUSION_MODEL wrappers itself, as ComfyUI's networks do."""
    if not pack.host.is_standin:
        return pack.wan()
    extension = pack.host.patcher_extension

    class Wan(DemoWan):
        runs_wrappers = True

        def forward(self, x, timestep, context=None, clip_fea=None, time_dim_concat=None,
                    transformer_options=None, **kwargs):  # fmt: skip
            kind = extension.WrappersMP.DIFFUSION_MODEL
            wrappers = extension.get_all_wrappers(kind, transformer_options)
            executor = extension.WrapperExecutor.new_class_executor(super().forward, self, wrappers)
            return executor.execute(
                x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs
            )

    Wan.__module__, Wan.__qualname__ = DemoWan.__module__, DemoWan.__qualname__
    return pack.host.patcher(Wan.from_state_dict(dict(small_weights())))


def compiled(model, keys=BLOCKS, backend="eager", **arguments):
    """A clone of the model with these parts compiled, by nothing that earlier tests left."""
    torch._dynamo.reset()
    helpers = importlib.import_module("comfy_api.torch_helpers")
    clone = model.clone()
    helpers.set_torch_compile_wrapper(model=clone, backend=backend, keys=list(keys), **arguments)
    return clone


def both(pack, order, *args, **kwargs):
    """A model with MotionCache and a compile node, in either order, and its trace handle."""
    if order == "before":
        return pack.patch(compiled(wan(pack), *args, **kwargs))
    patched, handle = pack.patch(wan(pack))
    return compiled(patched, *args, **kwargs), handle


@orders
def test_compiled_blocks_are_cached(pack, order):
    plain, eager = pack.patch(wan(pack))
    wanted = pack.sample(plain)
    counter = CompileCounterWithBackend("eager")
    model, handle = both(pack, order, backend=counter)
    assert torch.equal(pack.sample(model), wanted)
    assert set("Dp.") <= set(marks(handle.latest))
    assert marks(handle.latest) == marks(eager.latest)
    count = counter.frame_count
    assert count > 0
    assert torch.equal(pack.sample(model), wanted)
    assert counter.frame_count == count


def test_runs_with_and_without_share_compiled_blocks(pack):
    def no_options(guards):
        return ["options" not in guard.name for guard in guards]

    base = compiled(wan(pack), options={"guard_filter_fn": no_options})
    patched, handle = pack.patch(base)
    wanted = pack.sample(wan(pack)), pack.sample(pack.patch(wan(pack))[0])
    for _ in range(2):
        assert torch.equal(pack.sample(base), wanted[0])
        assert torch.equal(pack.sample(patched), wanted[1])
    assert "p" in marks(handle.latest)


def balanced(pack):
    """What whole evaluations of the model that is not compiled give at their usual share."""
    patched, handle = pack.execute("MotionCachePatcher", wan(pack), "balanced")
    wanted = pack.sample(patched, STEPS)
    assert marks(handle.latest).count("D") == round(0.4 * STEPS)
    return wanted


@orders
def test_a_model_compiled_as_a_whole_has_its_evaluations_foretold(pack, order, caplog):
    base = wan(pack)
    wanted = pack.sample(base, STEPS)
    counters.clear()
    assert torch.equal(pack.sample(compiled(base, ["diffusion_model"]), STEPS), wanted)
    breaks = set(counters["graph_break"])
    counters.clear()
    model, handle = both(pack, order, ["diffusion_model"])
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        assert torch.equal(pack.sample(model, STEPS), balanced(pack))
    assert set(counters["graph_break"]) == breaks
    assert not [w for w in warned if "motioncache" in f"{w.message} {w.filename}".lower()]
    why, computed = foretold(handle.latest)
    assert "the model is compiled as a whole" in why and computed == round(0.4 * STEPS)
    words, _, _ = pack.execute("MotionCacheReport", handle, {})
    for told in (caplog.text, words):
        assert "to tell tokens apart, compile the blocks instead" in told


def test_a_network_that_an_object_patch_has_compiled(pack):
    model = wan(pack)
    wanted = balanced(pack)
    model = model.clone()
    torch._dynamo.reset()
    network = torch.compile(model.get_model_object("diffusion_model"), backend="eager")
    model.add_object_patch("diffusion_model", network)
    patched, handle = pack.patch(model)
    assert torch.equal(pack.sample(patched, STEPS), wanted)
    assert "compiled as a whole" in foretold(handle.latest)[0]


def test_fullgraph_leaves_no_room_for_the_attention_hook(pack):
    wanted = balanced(pack)
    model, handle = both(pack, "behind")
    # on a CPU the graphs of ComfyUI's own blocks are not whole
    model.model_options["torch_compile_kwargs"]["fullgraph"] = True
    assert torch.equal(pack.sample(model, STEPS), wanted)
    assert "switch fullgraph off" in foretold(handle.latest)[0]


@pytest.mark.parametrize(("dynamic", "told"), [(False, True), (None, False)])
def test_fixed_shapes_are_warned_of(pack, caplog, dynamic, told):
    model, handle = both(pack, "before", dynamic=dynamic)
    with caplog.at_level(logging.WARNING):
        pack.sample(model)
    assert ("Set dynamic to auto" in caplog.text) == told
    assert "p" in marks(handle.latest)


def hidden(model):
    """The compile wrapper under another name, as another pack might register it."""
    kind = "apply_model"
    (wrapper,) = model.get_wrappers(kind, "torch.compile")
    model.remove_wrappers_with_key(kind, "torch.compile")
    model.add_wrapper_with_key(kind, "another pack", wrapper)
    return model


def test_a_compiled_model_that_shows_only_when_it_runs(pack):
    wanted = pack.sample(wan(pack), STEPS)
    model, handle = both(pack, "before", ["diffusion_model"])
    assert torch.equal(pack.sample(hidden(model), STEPS), wanted)
    assert "compiled as a whole" in handle.latest.reason


def test_a_wrapper_of_another_pack_that_wants_arguments(pack):
    patched, handle = pack.patch(wan(pack))
    wanted = pack.sample(patched)
    patched.add_wrapper_with_key(
        "apply_model", "torch.compile", lambda run, x, t, *args, **kw: run(x, t, *args, **kw)
    )
    assert torch.equal(pack.sample(patched), wanted)
    assert handle.latest.reason == ""


@pytest.mark.parametrize(
    ("attention", "patched"), [("block_causal", False), ("bidirectional", True)]
)
def test_forcing_refuses_a_model_compiled_as_a_whole(pack, attention, patched):
    model = pack.patch(wan(pack))[0] if patched else wan(pack)
    counter = CompileCounterWithBackend("eager")
    model = compiled(model, ["diffusion_model"], counter)
    before = options_of(model)
    with pytest.raises(UnsupportedModelError, match=WHOLE):
        by_host(pack, model, clip(), {"attention": attention})
    assert options_of(model) == before
    assert counter.frame_count == 0


@pytest.mark.parametrize("patched", [False, True], ids=["alone", "patched"])
def test_forcing_stops_when_the_model_was_called_past_it(pack, patched):
    model = pack.patch(wan(pack))[0] if patched else wan(pack)
    with pytest.raises(UnsupportedModelError, match=WHOLE):
        by_host(pack, hidden(compiled(model, ["diffusion_model"])), clip(), {})


def test_forcing_through_compiled_blocks(pack):
    noise = clip(4)
    wanted = by_host(pack, wan(pack), noise, {}, steps=3)
    assert error(by_host(pack, compiled(wan(pack)), noise, {}, steps=3), wanted) == 0
    fullgraph = compiled(wan(pack))
    fullgraph.model_options["torch_compile_kwargs"]["fullgraph"] = True
    with pytest.raises(UnsupportedModelError, match="Switch fullgraph off"):
        by_host(pack, fullgraph, noise, {})
