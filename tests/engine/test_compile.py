"""Blocks under `torch.compile`: the same answer, and no compilation for every step."""

import copy
import shutil
import sys

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.engine import attention
from motioncache_pack.motioncache_core.engine.block_hooks import BYPASSED
from motioncache_pack.motioncache_core.report import report_text as report
from motioncache_pack.tests.core.causal_runs import Film, sampled
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.core.small_wan import CASES, small_wan
from motioncache_pack.tests.support.assert_close import assert_close, assert_same
from motioncache_pack.tests.support.toy_models import DoublingNet
from torch._dynamo.testing import CompileCounterWithBackend

CASE = CASES["one head"]
# rows of each evaluation; None is dense, 0 reuse
SIZES = [None, 20, None, 31, 0, 44, 7, 12, None, 21]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(network, backend="eager", **arguments):
    """A copy whose blocks are compiled one by one."""
    network = copy.deepcopy(network)
    for i, block in enumerate(network.blocks):
        # torch.compile takes the guard filter out of the options it is given
        given = {k: dict(v) if isinstance(v, dict) else v for k, v in arguments.items()}
        network.blocks[i] = torch.compile(block, backend=backend, **given)
    return network


def sample(network, monkeypatch, sizes=SIZES, case=CASE, **kwargs):
    """A run's answers, one an evaluation."""
    kinds = {None: "dense", 0: "reuse"}
    dictate(monkeypatch, *(kinds.get(n) or random_rows(case.tokens, n, n) for n in sizes))
    run, out = Run(network), []
    for seed in range(len(sizes)):
        x, t, context, arguments = case.inputs(seed)
        out.append(run.call(x, t, context, **arguments, **kwargs))
    assert run.kinds == [kinds.get(n, "partial") for n in sizes]
    return out


def same(wanted, got):
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        assert_same(f"evaluation {i}", a, b)


@pytest.mark.parametrize("name", ["one head", "a timestep per frame"])
def test_compiled_blocks_answer_alike_and_are_compiled_once(name, monkeypatch):
    case, counter = CASES[name], CompileCounterWithBackend("eager")
    wanted = sample(case.network(), monkeypatch, case=case)
    network = compiled(case.network(), counter)
    same(wanted[:2], sample(network, monkeypatch, SIZES[:2], case))
    count = counter.frame_count
    assert 0 < count <= 20
    for _ in range(2):
        same(wanted, sample(network, monkeypatch, case=case))
    assert counter.frame_count == count


def test_fixed_shapes_are_compiled_for_two_numbers_of_rows(monkeypatch):
    counter = CompileCounterWithBackend("eager")
    network = compiled(CASE.network(), counter, dynamic=False)
    counts = []
    for sizes in ([None], [None, 20], [None, 31], [None, 44, 20, 7, 12], SIZES):
        same(sample(CASE.network(), monkeypatch, sizes), sample(network, monkeypatch, sizes))
        counts.append(counter.frame_count)
    dense = counts[0]
    assert counts == [dense, 2 * dense, 3 * dense, 3 * dense, 3 * dense]


def test_newly_compiled_blocks_start_afresh(monkeypatch):
    for sizes in ([None, 20, 31], [None, 44, 7]):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        network = compiled(CASE.network(), counter, dynamic=False)
        sample(network, monkeypatch, [None])
        dense = counter.frame_count
        sample(network, monkeypatch, sizes)
        assert counter.frame_count == 3 * dense


def compiler():
    return next(filter(shutil.which, ("g++", "clang++", "c++", "cl")), None)


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(compiler() is None, reason="inductor needs a C++ compiler"),
        ),
    ],
)
def test_other_backends_answer_alike(backend, monkeypatch):
    sizes = [None, 20, 31, 0]
    wanted = sample(CASE.network(), monkeypatch, sizes)
    got = sample(compiled(CASE.network(), backend, dynamic=True), monkeypatch, sizes)
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        assert_close(f"evaluation {i}", a, b)


def without_options(guards):
    """Like the filter of ComfyUI's compile node; DemoWan calls them `options` further down."""
    return ["options" not in guard.name for guard in guards]


def contiguous(args, extra):
    # the engine hands over such tokens, which alone would set its code apart
    return extra["original_block"]({**args, "img": args["img"].contiguous()})


def bare(network):
    x, t, context, _ = CASE.inputs(0)
    blocks = {("double_block", i): contiguous for i in range(len(network.blocks))}
    return network(x, t, context, transformer_options={"patches_replace": {"dit": blocks}})


@pytest.mark.parametrize("order", ["without first", "with first"])
def test_dropped_guards_do_not_mix_runs_with_and_without(order, monkeypatch):
    wanted = sample(CASE.network(), monkeypatch), bare(CASE.network())
    network = compiled(CASE.network(), options={"guard_filter_fn": without_options})
    if order == "without first":
        assert_same("without", wanted[1], bare(network))
    for _ in range(2):
        same(wanted[0], sample(network, monkeypatch))
        assert_same("without", wanted[1], bare(network))


def recycling(graph, _):
    """A backend that returns its outputs in the same memory each time, as CUDA graphs do."""
    memory = {}

    def run(*inputs):
        out = graph(*inputs)
        for i, new in enumerate(out):
            if isinstance(new, torch.Tensor):
                key = (i, new.shape, new.stride())
                memory.setdefault(key, torch.empty_like(new)).copy_(new)
        return tuple(
            memory[(i, new.shape, new.stride())] if isinstance(new, torch.Tensor) else new
            for i, new in enumerate(out)
        )

    return run


def test_keys_and_values_outlast_the_memory_of_a_compiled_block(monkeypatch):
    wanted = sample(CASE.network(), monkeypatch)
    same(wanted, sample(compiled(CASE.network(), recycling), monkeypatch))


def test_another_nodes_attention_is_called_through_compiled_blocks(monkeypatch):
    calls = []

    def override(func, *args, **kwargs):
        calls.append((args[0].shape[1], args[1].shape[1]))
        return 2 * func(*args, **kwargs)

    options = {"optimized_attention_override": override}
    sizes = [None, 3, 5]
    wanted = sample(CASE.network(), monkeypatch, sizes, options=options)
    eager, calls[:] = list(calls), []
    got = sample(compiled(CASE.network()), monkeypatch, sizes, options=options)
    same(wanted, got)
    assert calls == eager


def test_block_causal_attention_through_compiled_blocks():
    film = Film(size=(5, 4, 4))
    network = small_wan(1, 2)
    wanted, _ = sampled(film, network=network)
    got, _ = sampled(film, network=compiled(network))
    assert_same("latents", wanted, got)


@pytest.mark.parametrize("autocast", [False, True])
def test_torchs_global_state_is_as_it_was(autocast, monkeypatch):
    seen = []

    def look(graph, _):
        def run(*inputs):
            seen.append(torch.is_autocast_cache_enabled())
            return graph(*inputs)

        return run

    def broken(func, *args, **kwargs):
        raise KeyboardInterrupt

    network = compiled(CASE.network(), look)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sample(network, monkeypatch, [None, 3])
        assert set(seen) == {autocast}
        assert torch.is_autocast_cache_enabled()
        with pytest.raises(KeyboardInterrupt):
            sample(network, monkeypatch, [None], options={"optimized_attention_override": broken})
        assert torch.is_autocast_cache_enabled()


class Deaf(DoublingNet):
    """Blocks that stop calling the attention hook."""

    def __init__(self, hearing=0):
        super().__init__(blocks=2, attention=1)
        for block in self.blocks:
            block.hook, block.hearing, block.attend = block.attend, hearing, self.attend(block)

    @staticmethod
    def attend(block):
        def attend(x, source, options):
            block.hearing -= 1
            return block.hook(x, source, options if block.hearing >= 0 else {})

        return attend


Deaf.__module__, Deaf.__qualname__ = DoublingNet.__module__, DoublingNet.__qualname__


def test_blocks_that_bypass_the_hook_are_computed_as_a_whole(monkeypatch):
    dictate(monkeypatch, "dense", [0], [1])
    network, x = Deaf(), torch.ones(1, 2, 3, 1, 1)
    run = Run(network)
    for t in (1000, 900, 800):
        assert_same("output", network(x, torch.tensor([t])), run.call(x, t))
    assert run.kinds == ["dense"] * 3
    assert run.trace.calls()[0].note == BYPASSED
    assert BYPASSED in report.text(run.trace)
    assert report.line(run.trace) == f"nothing was reused: {BYPASSED}."


def test_active_rows_never_attend_to_themselves_alone(monkeypatch):
    dictate(monkeypatch, "dense", [0], [1], "reuse")
    # the first evaluation's two calls of each block are heard, the second one's are not
    run, x = Run(Deaf(hearing=2)), torch.ones(1, 2, 3, 1, 1)
    wanted = Deaf()(x, torch.tensor([1000]))
    for t in (1000, 900, 800, 700):
        assert_same("output", wanted, run.call(x, t))
    assert run.kinds == ["dense", "dense", "dense", "reuse"]
    (lost,) = run.trace.remarks
    assert code_of(lost) == "partial_failed" and "block 0" in lost and "attention hook" in lost


def test_a_run_without_a_compiler_loads_none(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the compiler was asked for")

    monkeypatch.setattr(torch.compiler, "disable", refuse)
    attention._untraced.cache_clear()
    monkeypatch.setattr(
        sys, "modules", {k: v for k, v in sys.modules.items() if k != "torch._dynamo"}
    )
    sample(CASE.network(), monkeypatch, [None, 3])


def test_code_that_outlasts_its_run_calls_the_hosts_attention():
    hook = attention.attention_hook()
    assert hook(lambda a, b=0: a + b, 2, b=3) == 5
