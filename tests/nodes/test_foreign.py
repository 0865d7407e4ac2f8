"""Another node that needs all tokens inside a block makes a run's evaluations whole; none ends a
run that works without us, and plain attention back ends are left where they are."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import REASONS, code_of
from motioncache_pack.tests.support.answer_runs import (
    patch,
    plain_error,
    same,
    small,
    squared,
    unchanged,
)
from motioncache_pack.tests.support.foreign_nodes import (
    FOREIGN,
    blocks_by_frames,
    deaf_later,
    hooked,
    with_override,
)
from motioncache_pack.tests.support.node_runs import marks
from motioncache_pack.tests.support.second_passes import error_of

nodes = pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)


@pytest.mark.parametrize("order", ["before", "behind"])
@nodes
def test_a_node_that_needs_all_tokens_makes_evaluations_whole(pack, put, order):
    scene = small(pack)
    error, trace = error_of(pack, scene, put, "motion", order)
    (told,) = trace.remarks
    assert REASONS[FOREIGN[put]].happened.partition("{")[0] in told
    assert code_of(told) == ("partial_failed" if put is hooked else "tokens_unknown")
    assert trace.reason == "" and {"D", "."} <= set(marks(trace))
    assert "partial" not in {call.kind for call in trace.calls()}
    assert 0 < error < 4 * plain_error(scene)


@nodes
def test_beside_it_nothing_changes_without_reuse(pack, put):
    if put is deaf_later:
        pytest.skip("it counts its calls over all runs")
    scene = replace(small(pack), steps=10)
    unchanged(pack, put(pack.host, scene.model), scene.sample)


@nodes
def test_these_nodes_matter(pack, put):
    scene = replace(small(pack), steps=10)
    assert squared(scene.sample(put(pack.host, scene.model)), scene.sample(scene.model)) > 1e-7


def test_a_run_that_fails_without_us_fails_in_its_own_words(pack):
    scene, left = small(pack), [0]

    def override(func, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise LookupError("no such token")
        return func(*args, **kwargs)

    override.__qualname__ = "attention_sage"
    told = []
    for model in (scene.model, patch(pack, scene.model, "motion")[0]):
        # in the first step, which is whole, and in one of some tokens
        for calls in (5, 8 + 3):
            left[0] = calls
            with pytest.raises(LookupError) as caught:
                scene.sample(with_override(model, override))
            told.append(str(caught.value))
    assert told == ["no such token"] * 4


@pytest.mark.parametrize("name", ["attention_sage", "PatchFlash.patch.override", "sub_quad"])
@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_plain_back_end_stays_where_it_is(pack, name, order):
    seen = []

    def put(host, model):
        def override(func, q, k, *args, **kwargs):
            seen.append((q.shape[1], k.shape[1]))
            return func(q, k, *args, **kwargs)

        override.__qualname__ = name
        return with_override(model, override)

    error, trace = error_of(pack, small(pack), put, "motion", order)
    assert "p" in marks(trace) and not trace.remarks
    assert {q < k for q, k in seen if k == trace.tokens} == {True, False}
    assert error < 2 * plain_error(small(pack))


def sparse(host, model, told):
    """Attention that leaves out keys where there are as many queries, put in place again at every
    step; what it is called by is the host's own node for it."""
    installed = set()

    def install(options):
        current = options.get("optimized_attention_override")
        if current in installed:
            return

        def override(func, q, k, v, *args, **kwargs):
            run = func if previous is None else lambda *a, **kw: previous(func, *a, **kw)
            if q.shape != k.shape:
                told.append((q.shape[1], k.shape[1]))
                return run(q, k, v, *args, **kwargs)
            told.append("sparse")
            half = q.shape[1] // 2
            parts = (slice(half), slice(half, None))
            made = [run(q[:, p], k[:, p], v[:, p], *args, **kwargs) for p in parts]
            return torch.cat(made, dim=1)

        previous = current
        override.__module__ = "comfy_extras.nodes_sparse_attention"
        installed.add(override)
        options["optimized_attention_override"] = override

    clone = model.clone()
    options = clone.model_options["transformer_options"] = {
        **clone.model_options["transformer_options"]
    }
    install(options)
    clone.add_callback_with_key(
        host.patcher_extension.CallbacksMP.ON_PREPARE_STATE,
        "sparse",
        lambda patcher, timestep, given: install(given["transformer_options"]),
    )
    return clone


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("preset", ["balanced", "motion"])
def test_sparse_attention_is_sparse_in_whole_evaluations(pack, preset, order):
    scene, told = small(pack), []
    error, trace = error_of(pack, scene, lambda host, m: sparse(host, m, told), preset, order)
    partly = [c for c in trace.calls() if c.kind == "partial"]
    dense = [seen for seen in told if seen != "sparse" and seen[1] == trace.tokens]
    assert "sparse" in told
    # mixed with dense evaluations it is neither
    assert error < (4 if preset == "balanced" else 20) * plain_error(scene)
    assert bool(partly) == bool(dense) == (preset == "motion")
    assert [code_of(c.note) for c in partly] == ["attention_dense"] * len(partly)


def test_an_interrupt_is_not_taken_for_a_failure(pack):
    scene, stop = small(pack), pack.host.model_management.InterruptProcessingException
    patched, handle = patch(pack, scene.model, "motion")
    scene.sample(patched)
    before, calls = marks(handle.latest).index("p"), []

    def override(func, q, k, *args, **kwargs):
        if q.shape[1] < k.shape[1] == 48:
            calls.append(1)
            raise stop
        return func(q, k, *args, **kwargs)

    override.__qualname__ = "attention_pytorch"
    with pytest.raises(stop):
        scene.sample(with_override(patched, override))
    assert before > 0 and calls == [1]


def test_a_replacement_for_one_pass_alone_is_seen_in_the_run(pack):
    """It comes with the call, when the run has begun."""
    scene = small(pack)

    def put(host, model):
        clone, replaced = model.clone(), blocks_by_frames(host, model)
        theirs = replaced.model_options["transformer_options"]["patches_replace"]

        def wrapper(apply_model, given):
            c = given["c"]
            options = {**c["transformer_options"], "patches_replace": theirs}
            return apply_model(given["input"], given["timestep"],
                               **{**c, "transformer_options": options})  # fmt: skip

        clone.set_model_unet_function_wrapper(wrapper)
        return clone

    error, trace = error_of(pack, scene, put, "motion")
    (told,) = trace.remarks
    assert code_of(told) == "tokens_lost" and "double_block 1" in told
    assert error < 4 * plain_error(scene) and "." in marks(trace)
    assert not same(scene.sample(put(pack.host, scene.model)), scene.sample(scene.model))
