"""A run that breaks off leaves nothing behind, and nothing of one run reaches the next."""

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import CacheShapeError
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady, dictate, living_tensors
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close, assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet

STEPS = 10
LEVELS = flow_sigmas(STEPS, 3.0)
SETTINGS = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, min_update_ratio=0.0, forecast=0.5
)


class Interrupt(BaseException):
    """Like a KeyboardInterrupt: no handler of ordinary exceptions sees it."""


class Breaks:
    """A block replacer that raises in one call."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def __call__(self, args, extra):
        self.left -= 1
        if self.left < 0:
            raise self.error("stop")
        return extra["original_block"](args)


def sampled(options=None, steps=STEPS, cleanup=None):
    """The latents of a run in a session of its own."""
    rng = torch.Generator().manual_seed(8)
    x = torch.randn(1, 16, 3, 6, 6, generator=rng)
    text = torch.randn(2, TEXT_TOKENS, TEXT_DIM, generator=rng)
    run = Run(small_wan(), SETTINGS, sigmas=LEVELS, profile=Steady(0.06))
    try:
        for step in range(steps):
            pair = torch.cat((x, x))
            out = run.call(pair, 1000 * LEVELS[step], text, ("u", "c"), options=options)
            x = x + (LEVELS[step + 1] - LEVELS[step]) * out.mean(dim=0, keepdim=True)
    finally:
        if cleanup is not None:
            cleanup(run.session)
        run.session.close()
    return x, run.trace


def left_over(before):
    """Shapes of tensors that were not there before."""
    # a map in the trace is a numpy view of a uint8 tensor on the CPU
    new = (t for key, t in living_tensors().items() if key not in before)
    return [tuple(t.shape) for t in new if t.dtype != torch.uint8]


@pytest.mark.parametrize("error", [RuntimeError, Interrupt])
# block 1 is called once a step unless all is reused: in warm-up, in a partial step
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_broken_run_leaves_no_tensor_and_the_next_one_is_as_if_alone(error, at):
    wanted, _ = sampled()
    before, closed, held = living_tensors(), [], []

    def look(session):
        held.extend(left_over(before))
        # kept alive, so that it is `close` that has to drop them
        closed.append(session)

    breaks = {"patches_replace": {"dit": {("double_block", 1): Breaks(at, error)}}}
    with pytest.raises(error):
        sampled(breaks, cleanup=look)
    assert held.count((2, 27, 256)) >= 4
    assert left_over(before) == []
    again, _ = sampled()
    assert_same("latents", wanted, again)


def test_a_finished_run_leaves_no_tensor_but_its_result():
    small_wan()
    before, closed = living_tensors(), []
    result = sampled(cleanup=closed.append)
    assert left_over(before) == [(1, 16, 3, 6, 6)]
    trace = result[1]
    assert trace.finished
    assert {"dense", "partial", "reuse"} == {c.kind for c in trace.calls()}


def test_a_trace_of_a_broken_run_tells_what_was_done():
    run = Run(small_wan(), SETTINGS, profile=Steady(0.06))
    case = CASES["text to video"]
    x, t, context, _ = case.inputs(0)
    run.call(x, t, context)
    breaks = {"patches_replace": {"dit": {("double_block", 2): Breaks(0, RuntimeError)}}}
    with pytest.raises(RuntimeError, match="stop"):
        run.call(x, t - 50, context, options=breaks)
    assert not run.trace.finished
    run.session.close()
    assert run.trace.finished
    assert run.kinds == ["dense"]
    assert run.trace.seconds > 0


def test_a_session_never_changes_the_network():
    network = small_wan()
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    attributes = set(vars(network))
    methods = [block.forward for block in network.blocks]
    sampled()
    assert set(vars(network)) == attributes
    assert [block.forward for block in network.blocks] == methods
    assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


def test_another_size_in_one_run_starts_afresh():
    settings = MotionCacheSettings(warmup_steps=1, uniform_updates=0, reuse_threshold=0.1)
    network = small_wan()
    run = Run(network, settings, profile=Steady(0.06))
    text = torch.randn(1, TEXT_TOKENS, TEXT_DIM)
    small, large = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 16, 2, 6, 4)
    for x, t in ((small, 1000), (small, 900), (large, 800), (large, 700), (small, 600)):
        out = run.call(x, t, text)
        if run.kinds[-1] == "dense":
            assert_close("output", network(x, torch.tensor([float(t)]), text), out)
    assert run.kinds == ["dense", "reuse", "dense", "reuse", "dense"]
    assert [e.chunks[0].tokens for e in run.trace.evaluations] == [8, 8, 12, 12, 8]


def test_another_batch_size_or_dtype_in_one_run_is_computed(monkeypatch):
    dictate(monkeypatch, "dense", "reuse", "reuse", [0, 1])
    run = Run(DoublingNet(blocks=1, attention=1))
    x = torch.ones(1, 2, 2, 1, 1)
    run.call(x, 1000)
    run.call(x.repeat(2, 1, 1, 1, 1), 900)
    run.call(x.double(), 800)
    run.call(x, 700)
    assert run.kinds == ["dense"] * 4
    assert [bool(c.note) for c in run.trace.calls()] == [False, True, True, True]


def test_an_image_latent_is_refused_with_advice():
    run = Run(DoublingNet())
    with pytest.raises(CacheShapeError, match="Use an empty video latent") as error:
        run.call(torch.ones(1, 2, 8, 8), 1000)
    assert "(1, 2, 8, 8)" in str(error.value)


def test_a_model_that_does_not_call_its_hooks_is_reported():
    class Deaf(DoublingNet):
        def forward(self, x, timestep, context=None, transformer_options=None, **kwargs):
            return super().forward(x, timestep)

    Deaf.__module__, Deaf.__qualname__ = "comfy.ldm.wan.model", "WanModel"
    with pytest.raises(CacheShapeError, match="did not call its block hooks"):
        Run(Deaf()).call(torch.ones(1, 2, 2, 1, 1), 1000)


def test_tokens_that_do_not_fit_the_grid_are_refused():
    class Longer(DoublingNet):
        def forward(self, x, *args, **kwargs):
            return super().forward(torch.cat((x, x), dim=2), *args, **kwargs)

    Longer.__module__, Longer.__qualname__ = "comfy.ldm.wan.model", "WanModel"
    with pytest.raises(CacheShapeError, match="4 tokens; 2 were expected"):
        Run(Longer()).call(torch.ones(1, 2, 2, 1, 1), 1000)


def test_a_partial_evaluation_refuses_an_attention_mask(monkeypatch):
    dictate(monkeypatch, "dense", [0])
    net = DoublingNet(blocks=1, attention=1)
    attend = net.blocks[0].attend

    def masked(x, source, options):
        override = options["optimized_attention_override"]

        def with_mask(func, *args, **kwargs):
            return override(func, *args, mask=torch.ones(2, 2), **kwargs)

        return attend(x, source, {**options, "optimized_attention_override": with_mask})

    net.blocks[0].attend = masked
    run = Run(net)
    run.call(torch.ones(1, 2, 2, 1, 1), 1000)
    with pytest.raises(CacheShapeError, match="cannot use an attention mask"):
        run.call(torch.ones(1, 2, 2, 1, 1), 900)


def test_a_second_order_sampler_calls_twice_at_one_level():
    settings = MotionCacheSettings(warmup_steps=3, uniform_updates=100, reuse_threshold=0.1)
    network = small_wan()
    run = Run(network, settings, profile=Steady(0.04))
    x, _, text, _ = CASES["text to video"].inputs(0)
    # Heun: a level, the next one, the next one again
    for level in (1000, 900, 900, 800, 800, 700, 700, 600):
        for name in ("u", "c"):
            run.call(x, level, text, (name,))
    assert [e.chunks[0].phase for e in run.trace.evaluations] == ["warm-up"] * 5 + ["uniform"] * 3
    assert [len(e.calls) for e in run.trace.evaluations] == [2] * 8
    assert run.decided == ["dense"] * 5 + ["reuse", "reuse", "dense"]
