"""A run that ends or breaks off leaves nothing behind, and nothing of one run reaches the next."""

import functools
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core import CacheShapeError, ForcingOptions, MotionCacheSettings
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.core import causal_runs, faults
from motioncache_pack.tests.core.causal_runs import Film, apart
from motioncache_pack.tests.core.faults import Interrupt, broken, nothing_is_kept
from motioncache_pack.tests.core.runs import Run, Steady, dictate, left_over, living_tensors
from motioncache_pack.tests.core.small_wan import CASES, TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close, assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet

ORDINARY = "ordinary"
FILMS = {
    "whole clip": Film((7, 4, 4), steps=9, prefix=1, options=ForcingOptions(2, 3)),
    "kept keys": Film((8, 4, 4), steps=9, options=ForcingOptions(2, 3, kv_keep=1)),
    "rolling": Film((8, 4, 4), steps=9, options=ForcingOptions(2, 4, window_frames=6)),
    "windows": Film(
        (7, 4, 4), steps=9, grouping=apart,
        options=ForcingOptions(2, 4, window_frames=4, overlap_frames=2),
    ),
    "bidirectional": Film(
        (7, 4, 4), steps=9, options=ForcingOptions(2, 3, attention="bidirectional")
    ),
}  # fmt: skip


def sampled(name, look=id):
    """Latents and trace of an ordinary run, or of one of the films."""
    if name == ORDINARY:
        return faults.sampled(look=look)
    settings = replace(faults.SETTINGS, motion_sensitivity=0.7)
    return causal_runs.sampled(FILMS[name], settings, profile=Steady(0.06), look=look)


@functools.cache
def undisturbed(name):
    return sampled(name)[0]


@pytest.mark.parametrize(
    "name, block, at, error",
    [
        # a block is called once a step unless all is reused: in warm-up, in a partial step
        (ORDINARY, 0, 0, RuntimeError),
        (ORDINARY, 1, 1, Interrupt),
        (ORDINARY, 0, 4, Interrupt),
        (ORDINARY, 1, 4, RuntimeError),
        ("whole clip", 1, 0, RuntimeError),
        ("kept keys", 0, 11, Interrupt),
        ("rolling", 1, 11, RuntimeError),
        ("windows", 0, 12, RuntimeError),
        ("bidirectional", 0, 3, Interrupt),
    ],
)
def test_a_broken_run_leaves_nothing_and_the_next_one_is_as_if_alone(name, block, at, error):
    wanted, before, closed, held = undisturbed(name), living_tensors(), [], []

    def look(session):
        held.extend(left_over(before))
        # kept alive, so that it is `close` that has to drop them
        closed.append(session)

    with nothing_is_kept():
        with broken(block, at, error) as rows, pytest.raises(error, match="stop"):
            sampled(name, look)
        # an error comes once more without the hooks, and before that in an evaluation of all rows
        more = 0 if error is Interrupt or name != ORDINARY else 1 + (at == 4)
        assert len(rows) == at + 1 + more
        assert held
    if name == ORDINARY:
        assert (rows[at] < 12) == (at == 4)
    assert_same("latents", wanted, sampled(name)[0])


@pytest.mark.parametrize("name", [ORDINARY, *FILMS])
def test_a_finished_run_leaves_only_its_result_and_the_network_as_it_was(name):
    wanted, network, closed = undisturbed(name), faults.network(), []
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    before, modules = living_tensors(), faults.module_state(network)
    result, trace = sampled(name, closed.append)
    assert left_over(before) == [result.shape]
    assert_same("latents", wanted, result)
    assert faults.module_state(network) == modules
    assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())
    assert trace.finished
    assert {"dense", "partial", "reuse"} <= {c.kind for e in trace.evaluations for c in e.chunks}
    assert [e for e in trace.evaluations if e.weight is not None]
    sizes = set()
    for i, evaluation in enumerate(trace.evaluations):
        mask, tokens = trace.active_mask(i), sum(c.tokens for c in evaluation.chunks)
        assert (len(mask), mask.sum()) == (tokens, sum(c.active for c in evaluation.chunks))
        sizes.add(tokens)
    assert len(sizes) == (2 if name == "windows" else 1)


def test_a_trace_of_a_broken_run_tells_what_was_done():
    run = Run(faults.network(), faults.SETTINGS, profile=Steady(0.06))
    x, t, context, _ = CASES["one head"].inputs(0)
    run.call(x, t, context)
    with broken(1, 0, RuntimeError), pytest.raises(RuntimeError, match="stop"):
        run.call(x, t - 50, context)
    assert not run.trace.finished
    run.session.close()
    assert run.trace.finished
    assert run.kinds == ["dense"]
    assert run.trace.seconds > 0


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
    for i, given in enumerate((x, x.repeat(2, 1, 1, 1, 1), x.double(), x)):
        run.call(given, 1000 - 100 * i)
    assert run.kinds == ["dense"] * 4
    assert [bool(c.note) for c in run.trace.calls()] == [False, True, True, True]


class Deaf(DoublingNet):
    def forward(self, x, timestep, context=None, transformer_options=None, **kwargs):
        return super().forward(x, timestep)


class Narrow(DoublingNet):
    """Leaves out a column: what its blocks are given is no whole number of frames."""

    def forward(self, x, *args, **kwargs):
        return super().forward(x[..., :1], *args, **kwargs)


for network in (Deaf, Narrow):
    network.__module__, network.__qualname__ = "comfy.ldm.wan.model", "WanModel"


def test_a_latent_that_is_no_video_is_refused():
    with pytest.raises(CacheShapeError, match=r"\(1, 2, 8, 8\).*Use an empty video latent"):
        Run(DoublingNet()).call(torch.ones(1, 2, 8, 8), 1000)


@pytest.mark.parametrize(
    "network, says",
    [(Deaf, "did not call its block hooks"), (Narrow, "3 tokens; 6 were expected")],
)
def test_a_network_that_fails_with_the_hooks_alone_runs_without(network, says):
    run, x = Run(network()), torch.ones(1, 2, 3, 1, 2)
    for t in (1000, 900):
        assert torch.equal(run.call(x, t), network()(x, torch.tensor([t])))
    assert code_of(run.trace.reason) == "hooks_failed" and says in run.trace.reason
    assert [c.kind for c in run.trace.calls()] == ["declined"] * 2


def test_a_mask_makes_evaluations_whole(monkeypatch):
    dictate(monkeypatch, "dense", [0], "reuse")
    net = DoublingNet(blocks=1, attention=1)
    attend = net.blocks[0].attend

    def masked(x, source, options):
        override = options["optimized_attention_override"]

        def with_mask(func, *args, **kwargs):
            return override(func, *args, mask=torch.ones(2, 2), **kwargs)

        return attend(x, source, {**options, "optimized_attention_override": with_mask})

    net.blocks[0].attend = masked
    run = Run(net)
    x = torch.ones(1, 2, 2, 1, 1)
    first = run.call(x, 1000)
    for t in (900, 800):
        assert torch.equal(run.call(x, t), first)
    assert run.kinds == ["dense", "dense", "reuse"]
    (lost,) = run.trace.remarks
    assert code_of(lost) == "partial_failed" and "attention mask" in lost


def test_a_second_order_sampler_calls_twice_at_one_level():
    settings = MotionCacheSettings(warmup_steps=3, uniform_updates=100, reuse_threshold=0.1)
    run = Run(small_wan(), settings, profile=Steady(0.04))
    x, _, text, _ = CASES["text to video"].inputs(0)
    # Heun: a level, the next one, the next one again
    for level in (1000, 900, 900, 800, 800, 700, 700, 600):
        for name in ("u", "c"):
            run.call(x, level, text, (name,))
    assert [e.chunks[0].phase for e in run.trace.evaluations] == ["warm-up"] * 5 + ["uniform"] * 3
    assert [len(e.calls) for e in run.trace.evaluations] == [2] * 8
    assert run.decided == ["dense"] * 5 + ["reuse", "reuse", "dense"]
