"""What other packs put on a model stays in force, whichever node comes first."""

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import REASONS
from motioncache_pack.tests.support.node_runs import LAYERS, STEPS, foretold, marks


def put_override(model, seen, factor=1.5, name="attention_sage"):
    """An attention override that is counted and changes the result; by its name a back end."""
    options = model.model_options["transformer_options"]
    previous = options.get("optimized_attention_override")

    def override(attention, q, k, v, *args, **kwargs):
        seen.append((q.shape[1], k.shape[1]))
        if previous is not None:
            return previous(attention, q, factor * k, v, *args, **kwargs)
        return attention(q, factor * k, v, *args, **kwargs)

    override.__qualname__ = name
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


def put_unknown_override(model, seen, factor=1.5):
    put_override(model, seen, factor, "regrouping")


KINDS = {"override": put_override, "replacer": put_replacer, "wrapper": put_function_wrapper,
         "unknown override": put_unknown_override}  # fmt: skip
# what may need all tokens
FOREIGN = {put_replacer: "block_replaced", put_unknown_override: "attention_replaced"}
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


def calls_of(put, trace):
    """What the other pack's patch sees of a run: of attention (rows, keys), of a block rows."""
    calls = [c for c in trace.calls() if c.kind != "reuse"]
    if put is put_function_wrapper:
        return [1] * STEPS
    if put is put_replacer:
        return [trace.tokens] * len(calls)
    # self-attention and text cross-attention in turn: active rows, and keys of all rows
    return [(c.computed, keys) for c in calls for keys in (trace.tokens, 16) * LAYERS]


@kinds
@orders
def test_another_packs_patch_stays_in_force(pack, put, order):
    model = pack.wan()
    plain = pack.sample(model)
    put(model, [])
    wanted = pack.sample(model)
    off, _, _ = build(pack, put, order, reuse_threshold=0.0)
    assert torch.equal(pack.sample(off), wanted)
    patched, handle, seen = build(pack, put, order)
    got = pack.sample(patched)
    if put in FOREIGN:
        why, _ = foretold(handle.latest)
        assert REASONS[FOREIGN[put]].happened.partition(" (")[0] in why
    else:
        assert {"D", "p", "."} <= set(marks(handle.latest))
    assert seen == calls_of(put, handle.latest)
    assert (got - wanted).norm() < 0.3 * (wanted - plain).norm()


def test_two_back_ends_together(pack):
    first, last = [], []
    model = pack.wan()
    put_override(model, first)
    patched, handle = pack.patch(model)
    later = patched.clone()
    put_override(later, last)
    pack.sample(later)
    blocks = sum(c.blocks for c in handle.latest.calls())
    assert "p" in marks(handle.latest)
    assert len(first) == len(last) == 2 * blocks


@pytest.mark.parametrize(
    ("name", "order"),
    [("double_block", "before"), ("attn1_patch", "behind"), ("attn2_patch", "behind")],
)
def test_beside_patches_that_need_all_tokens_whole_evaluations_are_foretold(pack, name, order):
    def put(model, seen):
        whole = {"double_block": lambda args: args}
        model.set_model_patch(whole.get(name, lambda args: args["x"]), name)

    patched, handle, _ = build(pack, put, order)
    off, _, _ = build(pack, put, order, reuse_threshold=0.0)
    assert torch.equal(pack.sample(off), pack.sample(pack.wan()))
    seen = []
    hook = patched.model.diffusion_model.blocks[0].register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape[1])
    )
    try:
        pack.sample(patched)
    finally:
        hook.remove()
    why, computed = foretold(handle.latest)
    assert computed == round(0.4 * STEPS) and seen == [48] * computed
    assert f"another node patches every block ({name})" in why
    assert why.endswith("to tell tokens apart, remove that node")


def test_a_callback_sees_every_step(pack):
    steps = []
    patched, _ = pack.patch(pack.wan())
    pack.sample(patched, callback=lambda step, *_: steps.append(step))
    assert steps == list(range(STEPS))
