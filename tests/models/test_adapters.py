"""Which models are taken, which are declined with a reason, which are refused."""

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import UnsupportedModelError
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.models.registry import ADAPTERS, find_adapter
from motioncache_pack.motioncache_core.models.wan import WAN
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run
from motioncache_pack.tests.core.small_wan import small_wan
from motioncache_pack.tests.support.assert_close import assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet, class_named

X = torch.randn(1, 2, 3, 2, 2)
T = torch.tensor([1000.0])


def passes_through(run, network, **call):
    """Asserts that a call is the bare network's, three times; returns the reason in the trace."""
    for _ in range(3):
        network.blocks[0].calls.clear()
        assert_same("output", network(X, T), run.call(X, T, **call))
        assert network.blocks[0].calls == [12, 12]
    assert run.trace.evaluations == []
    assert [c.kind for c in run.trace.declined_calls] == ["declined"] * 3
    return run.trace.reason


def test_an_unknown_model_is_refused_and_told_what_is_supported():
    with pytest.raises(UnsupportedModelError) as error:
        find_adapter(torch.nn.Linear(1, 1))
    message = str(error.value)
    assert "torch.nn.modules.linear.Linear" in message
    for adapter in ADAPTERS:
        assert adapter.name in message
        assert all(name.rpartition(".")[2] in message for name in adapter.classes)
    assert "Remove the node" in message


def test_an_unknown_model_in_a_run_passes_through_with_the_reason():
    """The nodes look before a run begins, so that another node has put it there."""
    network = class_named("elsewhere.model", "WanModel")()
    reason = passes_through(Run(network), network)
    assert code_of(reason) == "network_swapped" and "WanModel" in reason


def test_a_class_is_matched_by_its_full_name():
    assert find_adapter(DoublingNet()) == (WAN, None)
    assert find_adapter(small_wan()) == (WAN, None)
    with pytest.raises(UnsupportedModelError):
        find_adapter(class_named("elsewhere.model", "WanModel")())


def test_declined_variants_pass_through_with_the_reason():
    variants = [("comfy.ldm.wan.model", *variant) for variant in WAN.declined.items()]
    future = ("comfy.ldm.wan.model_future", "WanModel_X", "this variant has not been checked")
    for module, name, why in (*variants, future):
        network = class_named(module, name)()
        reason = passes_through(Run(network), network)
        assert all(part in reason for part in (name, why, "not known block by block")), name


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"options": {"ar_state": {}}}, "autoregressive sampler"),
        ({"options": {"context_window": object()}}, "context windows"),
        ({"options": {"patches": {"double_block": [print]}}}, "patches every block (double_block)"),
        ({"options": {"patches": {"attn1_patch": [print]}}}, "(attn1_patch)"),
        ({"options": {"patches": {"attn2_patch": [print]}}}, "(attn2_patch)"),
    ],
)
def test_calls_that_need_all_tokens_pass_through_with_the_reason(call, reason):
    network = DoublingNet()
    assert reason in passes_through(Run(network), network, **call)


def test_a_declined_call_leaves_the_callers_options_alone():
    options = {"own": 1, "ar_state": {}}
    Run(DoublingNet()).call(X, T, options=options)
    assert options == {"own": 1, "ar_state": {}}


def test_arguments_that_are_none_and_empty_patch_lists_do_not_matter():
    run = Run(DoublingNet())
    run.call(X, T, options={"patches": {"double_block": []}}, reference_latent=None)
    assert run.trace.reason == ""
    assert run.kinds == ["dense"]


def test_few_steps_pass_through():
    network = DoublingNet()
    few, enough = (Run(network, sigmas=[1 - i / n for i in range(n + 1)]) for n in (8, 9))
    reason = passes_through(few, network)
    assert "8 sampling steps" in reason and "Use more steps" in reason
    enough.call(X, T)
    assert enough.kinds == ["dense"]


def test_a_threshold_of_zero_and_a_hosts_refusal_pass_through():
    network = DoublingNet()
    settings = MotionCacheSettings(reuse_threshold=0)
    assert "never reuse" in passes_through(Run(network, settings), network)
    assert passes_through(Run(network, declined="told so"), network) == "told so"


def test_facts_of_a_network():
    facts = WAN.facts(small_wan())
    assert (facts.width, facts.blocks, facts.out_channels) == (256, (3,), 16)
    assert (facts.row_work, facts.pair_work) == (6 * 256**2 + 2 * 256 * 192, 512)
    assert facts.patch == (1, 2, 2)
    assert not facts.image_to_video
    assert WAN.facts(small_wan(in_dim=36, model_type="i2v")).image_to_video
    # Wan 2.2 image-to-video takes its image in the input's channels only
    assert WAN.facts(small_wan(in_dim=36)).image_to_video


def test_the_grid_rounds_up_to_whole_patches():
    layout = WAN.layout(WAN.facts(small_wan()), torch.zeros(1, 16, 3, 5, 8))
    assert (layout.frames, layout.height, layout.width) == (3, 3, 4)
