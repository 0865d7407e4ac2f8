"""Policies under diffusion forcing: every chunk counts its own steps and keeps its own state."""

import random
from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.sampling.forcing import sample_forcing
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.causal_oracle import WORKING
from motioncache_pack.tests.core.causal_runs import NETWORK, Film, ForcingRun, apart, sampled
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.support.toy_models import DoublingNet

STEPS, CAUSAL, BOTH_WAYS = 12, "block_causal", "bidirectional"
CHUNK = MotionCacheSettings(
    policy="chunk", warmup_steps=3, reuse_threshold=0.1, max_stale_steps=0, dense_last=True
)
OPTIONS = {
    "delay 1": ForcingOptions(2, 1),
    "delay 5": ForcingOptions(2, 5),
    "all at once": ForcingOptions(2, 0),
    "one after the other": ForcingOptions(2, STEPS),
    "rolling": ForcingOptions(2, 4, window_frames=6),
    "windows": ForcingOptions(2, 3, window_frames=6, overlap_frames=2),
}


class Told:
    """Distances that a test gives, in the order in which chunks are evaluated."""

    name = "told"

    def __init__(self, distances):
        self.distances, self.asked = distances, 0

    def to(self, device):
        return self

    def signal(self, tokens, modulation, sigma):
        self.asked += 1
        return torch.tensor(self.asked - 1)

    def between(self, previous, current):
        return self.distances[int(current)]


def active_chunks(film):
    """Iteration, place in the window, chunk and step of every evaluation that denoises."""
    return [
        (it.index, place, (it.window, it.start + span.start), step.step)
        for it in film.schedule
        for place, (span, step) in enumerate(zip(it.chunk_frames(), it.steps, strict=True))
        if step.role == "active"
    ]


@pytest.mark.parametrize(
    ("options", "prefix", "attention"),
    [
        ("delay 1", 0, CAUSAL), ("delay 5", 3, BOTH_WAYS), ("all at once", 3, CAUSAL),
        ("one after the other", 0, BOTH_WAYS), ("rolling", 0, BOTH_WAYS), ("rolling", 3, CAUSAL),
        ("windows", 3, BOTH_WAYS), ("windows", 0, CAUSAL),
    ],
)  # fmt: skip
def test_chunk_is_flowcache_to_the_letter(options, prefix, attention):
    film = Film((9, 1, 1), steps=STEPS, prefix=prefix, grouping=apart)
    film.options = replace(OPTIONS[options], attention=attention)
    evaluations = active_chunks(film)
    rng = random.Random(f"{options} {prefix}")
    distances = [rng.choice((0.01, 0.04, 0.07, 0.12)) * rng.random() * 2 for _ in evaluations]
    net = DoublingNet(dim=16, blocks=1, attention=1)
    _, trace = sampled(film, CHUNK, network=net, profile=Told(distances))

    wanted, accumulated = [], {}
    for n, (_, _, chunk, step) in enumerate(evaluations):
        if step < CHUNK.warmup_steps or step >= STEPS - 1:
            wanted.append("dense")
            accumulated[chunk] = 0.0
            continue
        accumulated[chunk] += distances[n]
        wanted.append("dense" if accumulated[chunk] >= CHUNK.reuse_threshold else "reuse")
        if wanted[-1] == "dense":
            accumulated[chunk] = 0.0
    got = [trace.evaluations[i].chunks[place].kind for i, place, _, _ in evaluations]
    assert got == wanted
    assert {"dense", "reuse"} == set(wanted)
    assert len(trace.evaluations) == len(film.schedule)


def test_one_decision_for_the_clip_is_refused_before_any_block_runs():
    for attention, threshold in ((CAUSAL, 0.1), (BOTH_WAYS, 0.1), (CAUSAL, 0)):
        settings, net = MotionCacheSettings(policy="step", reuse_threshold=threshold), DoublingNet()
        film = Film((4, 4, 4), steps=STEPS, options=ForcingOptions(2, 2, attention=attention))
        with pytest.raises(SettingsError, match="use 'motion' or 'chunk'"):
            sampled(film, settings, network=net)
        assert net.calls == []


@pytest.mark.parametrize(
    ("options", "policy"),
    [("delay 1", "random"), ("delay 5", "motion"), ("rolling", "motion"), ("windows", "random")],
)
def test_every_chunk_goes_through_its_own_phases(options, policy):
    settings = MotionCacheSettings(
        policy=policy, warmup_steps=2, uniform_updates=2, reuse_threshold=0.1, agreement=0.0,
        min_update_ratio=0.0, motion_sensitivity=0.8,
    )  # fmt: skip
    film = Film((9, 4, 4), steps=STEPS, prefix=3, options=OPTIONS[options])
    _, trace = sampled(film, settings, profile=Steady(0.06))
    phases = {}
    for index, place, chunk, _ in active_chunks(film):
        record = trace.evaluations[index].chunks[place]
        phases.setdefault(chunk, []).append((record.phase, record.kind))
    # 0.06 + 0.06 is due in every second evaluation
    uniform = [("uniform", "reuse"), ("uniform", "dense")] * 2
    for seen in phases.values():
        assert [p for p, _ in seen] == ["warm-up"] * 2 + ["uniform"] * 4 + ["motion"] * 5 + ["last"]
        assert seen[2:6] == uniform
        # the first frame of a window has nothing before it, and all its weights are 1
        assert "partial" in {k for _, k in seen}
    others = {c.phase for e in trace.evaluations for c in e.chunks} - {p for p, _ in seen}
    assert others <= {"unstarted", "clean", "done"}


def test_without_a_store_for_tokens_motion_decides_for_whole_chunks():
    settings = MotionCacheSettings(
        warmup_steps=2, uniform_updates=0, reuse_threshold=0.1, kv_cache="off"
    )
    film = Film((6, 4, 4), steps=STEPS, options=OPTIONS["delay 5"])
    _, trace = sampled(film, settings, profile=Steady(0.06))
    assert {c.kind for e in trace.evaluations for c in e.chunks} == {"dense", "reuse"}
    assert "block-causal attention needs them" in trace.kv_reason


def forecast_answers(options, *, frames=12, prefix=0, warmup=1, late=0):
    """What a network whose answer is the noise level says of every denoised frame.

    Returns `(level, level of the last computation, answer, kind)` for each, and branch.
    """
    settings = replace(CHUNK, warmup_steps=warmup, forecast=1.0, dense_last=False)
    levels = flow_sigmas(STEPS, 3.0)
    net = DoublingNet(blocks=1, attention=1, timed=True)
    run = ForcingRun(net, settings, sigmas=levels, profile=Steady(0.06))
    computed, out = {}, []

    def evaluate(x, call):
        it, names = (
            call.iteration,
            ("late", "early") if call.iteration.index >= late else ("early",),
        )
        t = torch.tensor(call.sigmas).mul(1000).expand(len(names), -1)
        zeros = torch.zeros_like(x).repeat(len(names), 1, 1, 1, 1)
        answers = run.answer(zeros, t, None, names, call) / 1000
        record = run.trace.evaluations[-1]
        for span, step, chunk in zip(it.chunk_frames(), it.steps, record.chunks, strict=True):
            if step.role != "active":
                continue
            level, key = call.sigmas[span.stop - 1], (it.window, it.start + span.start)
            kind = "dense" if record.calls[-1].note else chunk.kind
            for name, answer in zip(names, answers, strict=True):
                if kind == "dense":
                    computed[key, name] = level
                last = computed[key, name]
                out.append((level, last, float(answer[0, span.stop - 1, 0, 0]), kind))
        return torch.zeros_like(x)

    zeros = torch.zeros(1, 2, frames, 1, 1)
    sample_forcing(evaluate, zeros, zeros, levels, options, prefix)
    return out


@pytest.mark.parametrize(
    ("options", "prefix", "late", "warmup", "attention"),
    [
        ("delay 5", 0, 0, 1, CAUSAL), ("delay 5", 0, 11, 3, BOTH_WAYS),
        ("all at once", 3, 0, 1, BOTH_WAYS), ("all at once", 0, 10, 1, CAUSAL),
        ("rolling", 3, 0, 1, BOTH_WAYS), ("rolling", 0, 11, 3, CAUSAL),
        ("windows", 0, 10, 1, BOTH_WAYS), ("windows", 3, 0, 1, CAUSAL),
    ],
)  # fmt: skip
def test_a_forecast_knows_only_the_chunks_own_evaluations(options, prefix, late, warmup, attention):
    options = replace(OPTIONS[options], attention=attention)
    answers = forecast_answers(options, prefix=prefix, warmup=warmup, late=late)
    # a line is never overshot: the answer lies between the last computed one and the true one
    for level, last, answer, kind in answers:
        assert min(level, last) - 1e-5 <= answer <= max(level, last) + 1e-5, (kind, level, last)
    reused = [a for a in answers if a[3] == "reuse"]
    assert any(abs(answer - level) < 1e-5 for level, _, answer, _ in reused)


def test_the_engines_own_measure_starts_anew_with_each_chunk():
    film = Film((6, 4, 4), steps=STEPS, options=OPTIONS["delay 5"])
    _, trace = sampled(film, CHUNK, network=NETWORK)
    firsts = [
        (trace.evaluations[i].chunks[place].distance, step)
        for i, place, _, step in active_chunks(film)
    ]
    assert all((distance is None) == (step == 0) for distance, step in firsts if step < 1)
    idle = [
        chunk.distance
        for e, it in zip(trace.evaluations, film.schedule, strict=True)
        for chunk, step in zip(e.chunks, it.steps, strict=True)
        if step.role not in WORKING[:1]
    ]
    assert set(idle) == {None}
