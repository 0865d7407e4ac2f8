"""ComfyUI's own split of the branches over devices, with two that are both the CPU: the device
index tells them apart, and each has its thread, its copy of the network and its session."""

import pytest
import torch
from motioncache_pack.motioncache_core.engine.devices import THREAD_DEVICE, DeviceSessions
from motioncache_pack.motioncache_core.policy.map_exchange import DeviceMaps
from motioncache_pack.motioncache_core.report.report_json import summary
from motioncache_pack.tests.support.node_runs import LAYERS, STEPS, decisions, marks

pytestmark = pytest.mark.comfy

FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 1)
# one call of two rows and two calls of one differ in the last bits
CLOSE = 1e-4


@pytest.fixture
def split(pack, monkeypatch):
    """`split(model)`: the model as ComfyUI's multi-GPU node hands it on."""
    multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no multi-GPU split")
    management = pack.host.model_management
    monkeypatch.setattr(management, "get_all_torch_devices", lambda **_: [FIRST, SECOND])

    def build(model):
        model.cached_patcher_init = (pack.wan, ())
        clone = multigpu.create_multigpu_deepclones(model, 2)
        assert [m.load_device for m in clone.additional_models["multigpu"]] == [SECOND]
        return clone

    return build


@pytest.fixture
def served(monkeypatch):
    """Which branches each device's thread asked for."""
    seen, evaluate = {}, DeviceSessions.evaluate

    def watched(self, call):
        prompts = {b.prompt[0] for b in call.branches}
        seen.setdefault(call.options.get(THREAD_DEVICE), set()).update(prompts)
        return evaluate(self, call)

    monkeypatch.setattr(DeviceSessions, "evaluate", watched)
    return seen


@pytest.mark.parametrize("order", ["before", "behind"])
def test_both_devices_decide_alike_and_like_one(pack, split, served, order):
    wanted, alone = pack.cached(settings={"motion_sensitivity": 1.0})
    assert served.pop(None) == {0, 1}
    if order == "before":
        model, handle = pack.patch(split(pack.wan()), motion_sensitivity=1.0)
    else:
        model, handle = pack.patch(pack.wan(), motion_sensitivity=1.0)
        model = split(model)
    got, trace = pack.sample(model), handle.latest
    # 0 is the positive prompt
    assert served == {FIRST: {0}, SECOND: {1}}
    assert set("Dp.") <= set(marks(trace))
    assert decisions(trace) == decisions(alone)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    assert [[c.branches for c in e.calls] for e in trace.evaluations] == [[1, 1]] * STEPS
    totals, single = summary(trace)["totals"], summary(alone)["totals"]
    assert totals["compute_share"] == single["compute_share"] < 1
    assert totals["block_calls"] == 2 * single["block_calls"]
    assert trace.kv_bytes == alone.kv_bytes
    assert trace.residual_bytes == alone.residual_bytes
    # threads may take turns in any order
    assert torch.equal(pack.sample(model), got)


def test_without_the_others_maps_devices_decide_apart(pack, split, monkeypatch):
    monkeypatch.setattr(DeviceMaps, "collect", lambda self, own, device: dict(own))
    model, handle = pack.patch(split(pack.wan()), motion_sensitivity=1.0)
    pack.sample(model)
    scopes = {e.scope for e in handle.latest.evaluations}
    assert scopes == {"all branches", "all branches, cpu:1"}
    assert len(handle.latest.evaluations) == 2 * STEPS


def test_separate_decisions_have_scopes_of_their_own(pack, split):
    model, handle = pack.patch(split(pack.wan()), cfg_mask="separate")
    pack.sample(model)
    assert {e.scope for e in handle.latest.evaluations} == {"branch 0", "branch 0, cpu:1"}


def test_threshold_zero_is_bit_identical(pack, split):
    wanted = pack.sample(split(pack.wan()), 9)
    model, handle = pack.patch(split(pack.wan()), reuse_threshold=0.0)
    assert torch.equal(pack.sample(model, 9), wanted)
    assert "reuse_threshold is 0" in handle.latest.reason
    assert len(handle.latest.calls()) == 18


@pytest.mark.parametrize("device", [FIRST, SECOND], ids=str)
def test_an_error_on_one_device_leaves_nothing(pack, split, kept, device):
    model, handle = pack.patch(split(pack.wan()))
    wanted = pack.sample(model)
    kept.refs.clear()
    broken = model if device == FIRST else model.additional_models["multigpu"][0]
    calls = []

    def stop(*_):
        calls.append(1)
        # a call that fails with the cache's hooks is made once more without
        if len(calls) >= 3 * LAYERS:
            raise RuntimeError("stop")

    hook = broken.model.diffusion_model.blocks[-1].register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stop"):
        pack.sample(model)
    hook.remove()
    assert len(kept.refs) > 0
    assert kept.alive() == []
    assert len(handle.runs) == 1
    assert torch.equal(pack.sample(model), wanted)
