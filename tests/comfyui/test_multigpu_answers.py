"""Whole evaluations foretold where ComfyUI itself splits the branches over devices: two that are
both the CPU, each with its thread and its copy of the network, and one session for both."""

from collections import Counter

import pytest
import torch
from motioncache_pack.motioncache_core import AnswerSession
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.engine.answers.pass_state import PassState
from motioncache_pack.motioncache_core.report.report_json import summary
from motioncache_pack.tests.comfyui.test_multigpu_host import CLOSE, FIRST, SECOND, split
from motioncache_pack.tests.core.runs import living_tensors
from motioncache_pack.tests.support.node_runs import marks

__all__ = ["split"]
pytestmark = pytest.mark.comfy

STEPS = 20
COMPUTED = round(0.4 * STEPS)


@pytest.fixture
def computed(monkeypatch):
    """How often each branch went through the network, by the device that did it."""
    seen, evaluate = Counter(), AnswerSession.evaluate

    def watched(self, call):
        def run():
            seen.update((id(call.network), key.prompt[0]) for key in call.passes)
            return call_run()

        call_run = call.run
        object.__setattr__(call, "run", run)
        return evaluate(self, call)

    monkeypatch.setattr(AnswerSession, "evaluate", watched)
    return seen


def balanced(pack, model):
    return pack.execute("MotionCachePatcher", model, "balanced")


def networks(model):
    """Names of a model's copies of the network, as `computed` knows them."""
    clones = model.additional_models["multigpu"]
    return [id(m.model.diffusion_model) for m in (model, *clones)]


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral"])
def test_both_devices_go_by_one_plan(pack, split, computed, sampler, order):
    model, handle = balanced(pack, pack.wan())
    wanted, alone = pack.sample(model, STEPS, sampler=sampler), handle.latest
    shares = sorted(computed.values())
    assert shares == [round(0.4 * len(alone.evaluations))] * 2
    computed.clear()
    if order == "before":
        model, handle = balanced(pack, split(pack.wan()))
    else:
        model, handle = balanced(pack, pack.wan())
        model = split(model)
    got, trace = pack.sample(model, STEPS, sampler=sampler), handle.latest
    first, second = networks(model)
    # 0 is the positive prompt
    assert computed == {(first, 0): shares[0], (second, 1): shares[0]}
    assert marks(trace) == marks(alone)
    assert [[c.branches for c in e.calls] for e in trace.evaluations] == [[1, 1]] * len(
        marks(alone)
    )
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    assert summary(trace)["totals"]["compute_share"] == summary(alone)["totals"]["compute_share"]
    assert trace.answer_bytes == alone.answer_bytes > 0
    drawn = [None if e.weight is None else e.weight.tolist() for e in trace.evaluations]
    # threads may take turns in any order
    assert torch.equal(pack.sample(model, STEPS, sampler=sampler), got)
    again = handle.latest.evaluations
    assert drawn == [None if e.weight is None else e.weight.tolist() for e in again]


def test_threshold_zero_is_bit_identical(pack, split):
    wanted = pack.sample(split(pack.wan()), STEPS)
    model, handle = pack.patch(split(pack.wan()), policy="answer", reuse_threshold=0.0)
    assert torch.equal(pack.sample(model, STEPS), wanted)
    assert "reuse_threshold is 0" in handle.latest.reason


@pytest.mark.parametrize("device", [FIRST, SECOND], ids=str)
def test_an_error_on_one_device_leaves_nothing(pack, split, device):
    model, handle = balanced(pack, split(pack.wan()))
    wanted = pack.sample(model, STEPS)
    broken = model if device == FIRST else model.additional_models["multigpu"][0]
    calls, before = [], living_tensors()

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("stop")

    hook = broken.model.diffusion_model.blocks[-1].register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stop"):
        pack.sample(model, STEPS)
    hook.remove()
    assert [t.shape for key, t in living_tensors().items() if key not in before] == []
    assert len(handle.runs) == 1
    assert torch.equal(pack.sample(model, STEPS), wanted)


def test_a_device_without_room_goes_on_as_planned(pack, split, monkeypatch):
    model, handle = balanced(pack, split(pack.wan()))
    wanted, marked = pack.sample(model, STEPS), marks(handle.latest)
    make, refused = PassState._with_room, []

    def scarce(self, work):
        def once(place):
            if not refused and self._answers.numel():
                refused.append(self)
                raise torch.OutOfMemoryError("simulated")
            return work(place)

        return make(self, once)

    monkeypatch.setattr(PassState, "_with_room", scarce)
    assert torch.equal(pack.sample(model, STEPS), wanted)
    trace = handle.latest
    assert len(refused) == 1
    assert marks(trace) == marked
    assert "out_of_memory_answers" in [code_of(r) for r in trace.remarks]
