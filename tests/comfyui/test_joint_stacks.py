"""What people put on a model of a joint stream beside MotionCache, and models of such a class that
are taken as a whole: LoRA, fp8 weights, compiled blocks, an override underneath, image models."""

from __future__ import annotations

import itertools

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.comfyui.host_families import (
    FRAME,
    HOST_FAMILIES,
    hunyuan,
    hunyuan_model,
    newer,
)
from motioncache_pack.tests.comfyui.host_weights import drawn, parts
from motioncache_pack.tests.comfyui.test_families_host import PLAIN, STEPS, Subject, every, kinds
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.support.answer_runs import squared, unchanged, watch
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.node_runs import foretold, marks

pytestmark = pytest.mark.comfy

FP8 = torch.float8_e4m3fn


def lora(model, host):
    """On the projections of all blocks of both kinds."""
    rng, file = torch.Generator().manual_seed(4), {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        if (
            "blocks." in name
            and weight.ndim == 2
            and name.endswith(("qkv.weight", "linear1.weight"))
        ):
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            file[f"{key}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=rng) / 12
            file[f"{key}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=rng) / 12
    return host.sd.load_lora_for_models(model, None, file, 0.7, 0)[0]


def overridden(model, host):
    """An attention back end of another pack."""
    clone = model.clone()

    def sage_attention(func, *args, **kwargs):
        return func(*args, **kwargs)

    options = clone.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = sage_attention
    return clone


def compiled(model, host):
    """Every block, by the host's helper."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    clone = model.clone()
    keys = [f"diffusion_model.double_blocks.{i}" for i in range(2)]
    keys += [f"diffusion_model.single_blocks.{i}" for i in range(2)]
    set_torch_compile_wrapper(model=clone, backend="eager", keys=keys)
    return clone


@pytest.mark.parametrize("put", [lora, overridden, compiled])
def test_it_stays_in_force(pack, put, monkeypatch):
    subject = Subject(pack, HOST_FAMILIES["hunyuan video"])
    bare = subject.sample(subject.model)
    subject.model = put(subject.model, pack.host)
    wanted = subject.sample(subject.model)
    if put is lora:
        assert float((parts(wanted)[0] - parts(bare)[0]).abs().max()) > 0.01
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * (STEPS - 1))
    got, trace = subject.traced()
    every(assert_close, wanted, got)
    assert {c.kind for e in trace.evaluations[1:] for c in e.calls} == {"partial"}


def test_weights_of_8_bits(pack, monkeypatch):
    def load(host):
        from comfy.ldm.hunyuan_video.model import HunyuanVideo

        made = hunyuan_model()(host)
        weights = {k: v.clone() for k, v in made.model.diffusion_model.state_dict().items()}
        assert HunyuanVideo is type(made.model.diffusion_model)
        return host.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": FP8})

    subject = Subject(pack, hunyuan(model=load))
    block = subject.model.model.diffusion_model.double_blocks[0]
    assert block.img_attn.qkv.weight.dtype == FP8
    wanted = subject.sample(subject.model)
    rows = random_rows(subject.tokens, subject.tokens // 2, 3)
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * 3, *[rows] * (STEPS - 4))
    got, trace = subject.traced()
    assert kinds(trace)[1] == "partial" and torch.isfinite(parts(got)[0]).all()
    dictate(monkeypatch, "dense", *[range(subject.tokens)] * (STEPS - 1))
    every(assert_close, wanted, subject.traced()[0])


def test_a_model_that_upscales_is_foretold_as_a_whole(pack):
    case = newer(channels=98, meanflow=True)
    model = case.model(pack.host)
    assert type(model.model).__name__ == "HunyuanVideo15_SR_Distilled"
    patched, handle = pack.patch(model, **PLAIN)
    case.sample(pack.host, patched, 16)
    why, _ = foretold(handle.latest)
    assert "upscaling" in why


def test_prompts_apart_where_memory_is_scarce_and_together_elsewhere(pack, monkeypatch):
    subject = Subject(pack, HOST_FAMILIES["hunyuan video"])
    n = subject.tokens
    rows = [random_rows(n, k, k) for k in (n // 2, n // 3, n - 1, 5)]
    plan = ["dense", *rows[:2], "reuse", rows[2], "dense", rows[3], "reuse", rows[0]]
    free, step = {}, [0]
    # the host asks for it before it decides what goes into one call
    monkeypatch.setattr(
        pack.host.model_patcher.ModelPatcher, "get_free_memory",
        lambda *_: 0 if step[0] in free else 2**50,
    )  # fmt: skip

    def run(model, *apart):
        free.clear()
        free.update(dict.fromkeys(apart))
        at = itertools.count()

        def count(executor, *args, **kwargs):
            step[0] = next(at)
            return executor(*args, **kwargs)

        wrappers = model.wrappers.setdefault("predict_noise", {})
        model.wrappers["predict_noise"] = {"count": [count], **wrappers}
        return subject.sample(model)

    found = []
    for apart in ((), (1, 2, 5), (0, 3, 4, 7)):
        dictate(monkeypatch, *plan)
        patched, handle = subject.patched()
        found.append(run(patched, *apart))
        calls = [len(e.calls) for e in handle.latest.evaluations]
        assert calls == [2 if i in apart else 1 for i in range(STEPS)]
        assert not handle.latest.reason and not handle.latest.declined_calls
    every(assert_close, found[0], found[1])
    every(assert_close, found[0], found[2])
    dictate(monkeypatch, "dense", *[range(n)] * (STEPS - 1))
    patched, _ = subject.patched()
    every(assert_close, subject.sample(subject.model), run(patched, 1, 2, 5))


@pytest.fixture(scope="module")
def controlled(pack):
    """A model and what samples it with a control net, whose answers differ from block to block."""
    case, steps = HOST_FAMILIES["hunyuan video"], 20
    model = case.model(pack.host)
    network = model.model.diffusion_model
    shape = 1, case.frames * FRAME, network.hidden_size

    class Net(pack.host.controlnet.ControlBase):
        def get_control(self, x, t, cond, batched_number, transformer_options):
            one, other = (x.std() * drawn(*shape, seed=seed) for seed in (1, 2))
            return {"input": [one, None], "output": [None, other]}

        def get_models(self):
            return []

        def copy(self):
            return self

    ((text, given),) = case.positive
    positive = [[text, {**given, "control": Net()}]]

    def sample(model, positive=positive, **how):
        return case.sample(pack.host, model, steps, positive=positive, **how)

    return model, sample, case.positive


def test_a_control_net_between_the_blocks(pack, controlled):
    model, sample, bare = controlled
    assert squared(sample(model), sample(model, bare)) > 1e-3
    unchanged(pack, model, sample)


@pytest.mark.parametrize("preset", ["balanced", "motion"])
def test_computed_evaluations_beside_a_control_net_are_the_models(pack, controlled, preset):
    model, sample, bare = controlled
    runs = []

    def noted(model):
        runs.append([])
        return sample(model, callback=lambda i, x0, *_: runs[-1].append(x0.clone()))

    told = watch(pack, model, noted, preset)
    told.check()
    # as the model says, until the first one that is foretold
    first = marks(told.trace).index(".")
    assert first > 0 and all(map(torch.equal, runs[0][:first], runs[1][:first]))
    plain = watch(pack, model, lambda m: sample(m, bare), "balanced")
    assert 0 < told.error < 3 * plain.error
    why = [code_of(remark) for remark in told.trace.remarks]
    assert why == ["tokens_unknown"] * (preset == "motion")
