"""What other packs put on a model stays in force, whichever node comes first."""

import pytest
import torch
from motioncache_pack.tests.support.node_runs import LAYERS, STEPS, marks


def put_override(model, seen, factor=1.5):
    """An attention override that is counted and changes the result."""
    options = model.model_options["transformer_options"]
    previous = options.get("optimized_attention_override")

    def override(attention, q, k, v, *args, **kwargs):
        seen.append((q.shape[1], k.shape[1]))
        if previous is not None:
            return previous(attention, q, factor * k, v, *args, **kwargs)
        return attention(q, factor * k, v, *args, **kwargs)

    options["optimized_attention_override"] = override


def put_replacer(model, seen, factor=1.5, block=1):
    """A block replacement that is counted and changes the result."""

    def replace(args, extra):
        seen.append(args["img"].shape[1])
        img = extra["original_block"](args)["img"].clone()
        # not all channels: a norm follows, and would undo a common factor
        img[..., ::2] *= factor
        return {"img": img}

    model.set_model_patch_replace(replace, "dit", "double_block", block)


def put_function_wrapper(model, seen):
    def wrapper(apply_model, call):
        seen.append(1)
        return 0.9 * apply_model(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(wrapper)


KINDS = {"override": put_override, "replacer": put_replacer, "wrapper": put_function_wrapper}
kinds = pytest.mark.parametrize("put", KINDS.values(), ids=KINDS)
orders = pytest.mark.parametrize("order", ["before", "behind"])


def build(pack, put, order, **settings):
    """A model with the other pack's patch before or behind MotionCache."""
    seen, model = [], pack.wan()
    if order == "before":
        put(model, seen)
    patched, handle = pack.patch(model, **settings)
    if order == "behind":
        patched = patched.clone()
        put(patched, seen)
    return patched, handle, seen


def uncached(pack, put):
    model = pack.wan()
    put(model, [])
    return pack.sample(model)


@kinds
@orders
def test_threshold_zero_is_bit_identical_with_it(pack, put, order):
    patched, _, seen = build(pack, put, order, reuse_threshold=0.0)
    got = pack.sample(patched)
    assert torch.equal(got, uncached(pack, put))
    assert not torch.equal(got, pack.sample(pack.wan()))
    assert seen


@kinds
@orders
def test_a_cached_run_keeps_its_effect(pack, put, order):
    patched, handle, _ = build(pack, put, order)
    got = pack.sample(patched)
    assert "." in marks(handle.latest)
    wanted = uncached(pack, put)
    effect = (wanted - pack.sample(pack.wan())).norm()
    assert (got - wanted).norm() < 0.3 * effect


@orders
def test_an_override_sees_every_attention_call_and_all_keys(pack, order):
    patched, handle, seen = build(pack, put_override, order)
    pack.sample(patched)
    trace = handle.latest
    calls = [c for c in trace.calls() if c.kind != "reuse"]
    assert len(seen) == 2 * LAYERS * len(calls)
    # self-attention and text cross-attention in turn: active rows, and keys of all rows
    assert [q for q, _ in seen] == [c.computed for c in calls for _ in range(2 * LAYERS)]
    assert {k for _, k in seen[::2]} == {trace.tokens}
    assert {k for _, k in seen[1::2]} == {16}


@orders
def test_a_replacer_sees_every_call_of_its_block(pack, order):
    patched, handle, seen = build(pack, put_replacer, order)
    pack.sample(patched)
    assert seen == [c.computed for c in handle.latest.calls() if c.kind != "reuse"]
    assert handle.latest.calls()[0].blocks == LAYERS


def test_two_overrides_and_a_replacer_together(pack):
    first, last, replaced = [], [], []
    model = pack.wan()
    put_override(model, first)
    put_replacer(model, replaced, block=0)
    patched, handle = pack.patch(model)
    later = patched.clone()
    put_override(later, last)
    pack.sample(later)
    blocks = sum(c.blocks for c in handle.latest.calls())
    assert len(first) == len(last) == 2 * blocks
    assert len(replaced) == blocks / LAYERS


def test_a_function_wrapper_is_called_for_every_evaluation(pack):
    patched, _, seen = build(pack, put_function_wrapper, "before")
    pack.sample(patched)
    assert len(seen) == STEPS


@pytest.mark.parametrize("name", ["double_block", "attn1_patch", "attn2_patch"])
@orders
def test_patches_that_need_all_tokens_make_the_run_pass_through(pack, name, order):
    def put(model, seen):
        whole = {"double_block": lambda args: args}
        model.set_model_patch(whole.get(name, lambda args: args["x"]), name)

    patched, handle, _ = build(pack, put, order)
    seen = []
    hook = patched.model.diffusion_model.blocks[0].register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape[1])
    )
    try:
        pack.sample(patched)
    finally:
        hook.remove()
    assert seen == [48] * STEPS
    assert f"patches every block ({name})" in handle.latest.reason


def test_a_callback_sees_every_step(pack):
    steps = []
    patched, _ = pack.patch(pack.wan())
    pack.sample(patched, callback=lambda step, *_: steps.append(step))
    assert steps == list(range(STEPS))
