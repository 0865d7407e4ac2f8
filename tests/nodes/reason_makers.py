"""How each reason in the table is reached: runs whose report names it, or the sentence itself."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    AnswerCall,
    NoMapError,
    RunFacts,
    Trace,
    answer_session,
)
from motioncache_pack.motioncache_core.report.motion_map import mapped_steps
from motioncache_pack.motioncache_core.sampling.sampler_response import euler
from motioncache_pack.motioncache_core.settings import PRESETS, MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.engine.test_answer_threads import (
    Clip,
    Roomless,
    one_after_the_other,
)
from motioncache_pack.tests.engine.test_compile import Deaf
from motioncache_pack.tests.engine.test_kv_out_of_memory import Scarce
from motioncache_pack.tests.engine.test_windows import WINDOWS
from motioncache_pack.tests.nodes.reason_makers_calls import CALLS, closed
from motioncache_pack.tests.nodes.test_compiled import both
from motioncache_pack.tests.nodes.test_conflicts import OtherNetwork, controlled, unchecked
from motioncache_pack.tests.nodes.test_raylight import shared
from motioncache_pack.tests.support.toy_models import DoublingNet


def by_node(pack, **settings):
    """The trace of a run of a patched model."""
    how = {k: settings.pop(k) for k in ("steps", "sampler") if k in settings}
    return pack.cached(**how, settings=settings)[1]


def by_call(options=None, rows=1, branches=("cond",)):
    """The trace of a session that was called once."""
    run = Run(small_wan())
    text = torch.randn(rows, TEXT_TOKENS, TEXT_DIM)
    x = torch.randn(rows, 16, 3, 4, 4)
    run.call(x, 900, text, branches, options or {})
    return closed(run)


def by_engine(facts, frames=3, branches=(("cond",),) * 3, **settings):
    """The trace of a session on a network whose answer moves a little in every evaluation."""
    chosen = {"warmup_steps": 1, "uniform_updates": 0, "reuse_threshold": 0.5, **settings}
    run = Run(small_wan(), MotionCacheSettings(**chosen), profile=Steady(0.1), **facts)
    for step, names in enumerate(branches):
        text = torch.randn(len(names), TEXT_TOKENS, TEXT_DIM)
        run.call(torch.randn(len(names), 16, frames, 4, 4), 900 - 90 * step, text, names)
    return closed(run)


def by_preset(pack, preset, model=None, **how):
    """The trace of a run with a preset."""
    model = pack.wan() if model is None else model
    patched, handle = pack.execute("MotionCachePatcher", model, preset)
    pack.sample(patched, **how)
    return handle.latest


class Followed:
    """A sampler that does what Euler does, and is none of the host's."""

    def __init__(self, euler):
        self.sample = euler.sample


def unknown_sampler(pack, _):
    patched, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    guider = pack.host.guider(patched, pack.host.text(1), pack.host.text(2))
    noise = torch.randn(1, 16, 3, 8, 8)
    sampler = Followed(pack.host.samplers.sampler_object("euler"))
    guider.sample(noise, 0 * noise, sampler, pack.host.sigmas(patched, 14), seed=1)
    return handle.latest


def by_answers(later=None, video=(1, 1, 2, 2), until=20, told=True, **sampler):
    """The trace of twenty steps of a model, of which eight are computed.

    Args:
        later: what the sampler asks for from the tenth evaluation on: noise level and passes.
        told: whether the session is told where an evaluation begins.
        sampler: what its response is besides that of Euler's method.
    """
    sigmas = tuple(1 - k / 20 for k in range(21))
    trace, facts = Trace(PRESETS["balanced"].as_dict()), RunFacts(sigmas=sigmas)
    response = dataclasses.replace(euler(sigmas), **sampler)
    session = answer_session(PRESETS["balanced"], kernels, facts, trace, response)
    for k, sigma in enumerate(sigmas[:until]):
        level, passes = later(sigma) if later and k >= 10 else (sigma, ("a",))
        x = torch.randn(len(passes), 1, 1, 2, 2)
        if told:
            session.begin(level)
        session.evaluate(AnswerCall("network", lambda x=x: 0.9 * x, x, passes, video))
    session.close()
    return trace


def compiled(fullgraph=False, **how):
    """A run of a compiled model."""

    def make(pack, _):
        model, handle = both(pack, "before", **how)
        if fullgraph:
            model.model_options["torch_compile_kwargs"]["fullgraph"] = True
        pack.sample(model, 9)
        return handle.latest

    return make


def an_image(pack, _):
    model, handle = pack.patch(pack.host.patcher(OtherNetwork()))
    pack.guide(model, torch.randn(1, 16, 8, 8))[1]()
    return handle.latest


def patched_blocks(pack, _):
    model, handle = pack.patch(pack.wan())
    model.set_model_patch(lambda args: args, "double_block")
    pack.sample(model)
    return handle.latest


def windows(pack, _):
    model, handle = pack.patch(pack.wan())
    window = SimpleNamespace(index_list=[0, 1, 2])
    model.model_options["transformer_options"]["context_window"] = window
    pack.sample(model)
    return handle.latest


def handled(pack, dim, schedule):
    """The trace of a run that the host would cut into windows of one frame."""
    model, handle = pack.patch(pack.wan())
    schedule = SimpleNamespace(name="restless", func=schedule)
    model.model_options["context_handler"] = SimpleNamespace(
        context_schedule=schedule,
        dim=dim,
        context_length=1,
        # the host itself cuts nothing
        should_use_context=lambda *_: False,
    )
    pack.sample(model)
    return handle.latest


def windowed(window, **facts):
    """The trace of a call for a context window of a session that knows the first two."""
    run = Run(small_wan(), windows=WINDOWS[:2], **facts)
    x = torch.randn(1, 16, window.length, 4, 4)
    run.call(x, 900, torch.randn(1, TEXT_TOKENS, TEXT_DIM), window=window)
    return closed(run)


def two_networks(*_):
    runs = [Run(DoublingNet()) for _ in range(2)]
    runs[1].session = runs[0].session
    for step, run in enumerate(runs):
        run.call(torch.ones(1, 2, 3, 1, 1), 900 - 90 * step)
    return closed(runs[0])


def exhausted(_, monkeypatch):
    def plan(*_):
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr("motioncache_pack.motioncache_core.engine.clip_cache.ClipCache.plan", plan)
    return by_call()


def dictated(monkeypatch, network, *decisions):
    dictate(monkeypatch, *decisions)
    run = Run(network)
    for step in range(len(decisions)):
        run.call(torch.ones(1, 2, 3, 1, 1), 900 - 90 * step)
    return closed(run)


def map_of(trace):
    """Why a run has no motion map, as the node says it."""
    with pytest.raises(NoMapError) as error:
        mapped_steps(trace, "motion")
    return str(error.value)


def short_of_memory(monkeypatch, kv_forecast=0.0, **places):
    Scarce(monkeypatch, places)
    return by_engine({}, kv_cache="gpu", kv_forecast=kv_forecast)


def in_one_of_two(pack, monkeypatch):
    model, handle = pack.patch(pack.wan())
    shared(monkeypatch)
    pack.sample(model)
    return handle.latest


def without_room():
    clip = Clip(Roomless(0))
    clip.sample(one_after_the_other)
    return clip.trace


# by place: code to how it is reached: a trace whose report names it, or the sentence itself
MAKERS = {
    "nodes": {
        "off": lambda pack, _: by_preset(pack, "off"),
        "few_steps": lambda pack, _: by_node(pack, steps=6),
        "threshold_zero": lambda pack, _: by_node(pack, reuse_threshold=0.0),
        "tokens_unknown": lambda pack, _: by_preset(pack, "motion", unchecked(pack)),
        "budget_spent": lambda pack, _: by_node(
            pack, steps=20, warmup_steps=5, policy="step", compute_budget=0.2
        ),
        "budget_whole": lambda pack, _: by_node(pack, compute_budget=1.0, policy="step"),
        "little_reuse": lambda pack, _: by_node(pack, steps=10),
        "protected": lambda pack, _: by_node(pack, steps=9, warmup_steps=9),
        "kv_policy": lambda pack, _: by_node(pack, policy="step"),
        "kv_off": lambda pack, _: by_node(pack, kv_cache="off"),
        "map_policy": lambda pack, _: map_of(by_node(pack, policy="step")),
        "map_phase": lambda pack, _: map_of(by_node(pack, uniform_updates=30)),
    },
    "answers": {
        "guider_unknown": lambda *_: by_answers(told=False),
        "answers_apart": lambda *_: by_answers(one_answer=False),
        "sampler_unknown": unknown_sampler,
        "noise_added": lambda pack, _: by_preset(pack, "balanced", sampler="euler_ancestral"),
        "new_pass": lambda *_: by_answers(lambda sigma: (sigma, ("a", "b"))),
        "steps_differ": lambda *_: by_answers(lambda sigma: (0.99 * sigma, ("a",))),
        "out_of_memory_answers": lambda *_: without_room(),
        "map_answers": lambda *_: map_of(by_answers(video=None)),
    },
    "compiled models": {"compiled_static": compiled(dynamic=False)},
    "context windows": {
        "windows_unknown": windows,
        "windows_dimension": lambda pack, _: handled(pack, 3, None),
        "windows_move": lambda pack, _: handled(pack, 2, lambda n, at, _: [[at._step % n]]),
        "windows_other": lambda *_: windowed(WINDOWS[2]),
        "windows_no_room": lambda *_: windowed(WINDOWS[0], free_memory=lambda: 0),
    },
    "engine": {
        "budget_without_steps": lambda *_: by_engine(
            {"sigmas": ()}, policy="step", compute_budget=0.5
        ),
        "network_changed": two_networks,
        "out_of_memory": exhausted,
        "uneven_batch": lambda *_: by_call(rows=3, branches=("cond", "uncond")),
        **CALLS,
        "autoregressive": lambda *_: by_call(options={"ar_state": {}}),
        "not_called": lambda *_: by_engine({}, branches=()),
        "threshold_reached": lambda *_: by_engine({}, reuse_threshold=0.001, policy="chunk"),
        "new_branch": lambda *_: by_engine({}, branches=[("a",), ("a",), ("a", "b")]),
        "attention_bypassed": lambda _, patch: dictated(patch, Deaf(), "dense", [0]),
    },
    "keys and values": {
        "kv_incomplete": lambda _, patch: dictated(patch, DoublingNet(attention=0), "dense", [1]),
        "kv_no_room": lambda *_: by_engine({"free_memory": lambda: 0}),
        "kv_one_frame": lambda *_: by_engine({}, frames=1),
        "kv_forecast_lost": lambda _, patch: short_of_memory(patch, 1.0, gpu=(1,)),
        "kv_step_down": lambda _, patch: short_of_memory(patch, gpu=(1,)),
        "kv_lost": lambda _, patch: short_of_memory(patch, gpu=None, gpu_fp8=None, cpu=None),
    },
}


# why tokens cannot be told apart, told as a part of what is done instead
INSIDE = {
    "model_unknown": lambda pack, _: by_preset(pack, "paper", pack.host.patcher(OtherNetwork())),
    "model_variant": lambda pack, _: by_preset(pack, "motion", unchecked(pack)),
    "no_video": an_image,
    "control_net": lambda pack, _: controlled(pack)[1].latest,
    "block_patch": patched_blocks,
    "compiled_whole": compiled(keys=["diffusion_model"]),
    "compiled_fullgraph": compiled(fullgraph=True),
    "several_ranks": in_one_of_two,
}
