"""Any settings, grid, chunks, batch and active set: a teaching error, or the rows that were
computed are exact, the others are `x + r` with the forecast's term, and the counts add up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate, pairwise

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from motioncache_pack.motioncache_core.common.errors import CacheShapeError, SettingsError
from motioncache_pack.motioncache_core.common.field_checks import declared
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from motioncache_pack.motioncache_core.report.report_json import as_json
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.by_hand import ByHand
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.toy_models import DoublingNet

FIELDS = declared(MotionCacheSettings)
CHOICES = {n: o.choices for n, o in FIELDS.items() if o.choices}
SWITCHES = ("verbose", "dense_last", "clamp_distance", "hindsight")
RANGES = {n: o.limits for n, o in FIELDS.items() if n not in (*CHOICES, *SWITCHES)}
WHOLE = ("warmup_steps", "uniform_updates", "max_stale_steps")
# where runs are partial, dense and reused; 8 bits and a forecast of keys and values are not what
# was stored, nor is what is corrected: see test_kv_quality, test_kv_forecast and test_correction
LIKELY = {
    "warmup_steps": (1, 1), "uniform_updates": (0, 0), "max_stale_steps": (0, 4),
    "reuse_threshold": (0.1, 0.3), "min_update_ratio": (0.0, 0.2), "agreement": (0.0, 0.6),
    "motion_sensitivity": (0.5, 1.0), "policy": ("motion", "random", "motion", "chunk", "step"),
    "kv_cache": ("gpu", "cpu", "auto", "off"), "kv_forecast": (0.0, 0.0), "correction": (0.0, 0.0),
}  # fmt: skip


def examples(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


class Drawn:
    """Distances that the example says, one after the other."""

    name = "drawn"

    def __init__(self, distances):
        self.distances = distances

    def to(self, device):
        return self

    def signal(self, tokens, modulation, sigma):
        return sigma

    def between(self, previous, current):
        self.distances.append(self.distances.pop(0))
        return self.distances[-1]


@dataclass(frozen=True)
class Example:
    settings: dict
    grid: tuple
    chunks: tuple | None
    samples: int
    branches: tuple
    falls: tuple
    distances: tuple
    known_schedule: bool
    seed: int


@st.composite
def some_settings(draw):
    """Mostly in range: what is out of range ends an example at once."""
    found = {"dense_last": draw(st.booleans())}
    for name, (low, high) in RANGES.items():
        low, high = LIKELY.get(name, (low, high))
        found[name] = draw((st.integers if name in WHOLE else st.floats)(low, high))
    for name, choices in CHOICES.items():
        found[name] = draw(st.sampled_from(LIKELY.get(name, choices)))
    if draw(st.integers(0, 9)) == 9:
        found["reuse_threshold"] = 0.0
    if draw(st.integers(0, 9)) == 9:
        spoilt = draw(st.sampled_from(sorted(RANGES)))
        found[spoilt] = draw(st.sampled_from([-1, 1e9, "0.5", None, float("nan")]))
    if draw(st.integers(0, 19)) == 19:
        found[draw(st.sampled_from(sorted(CHOICES)))] = "best"
    return found


@st.composite
def some_example(draw):
    frames = draw(st.sampled_from([3, 2, 4, 5, 3, 2, 1]))
    grid = (frames, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    chunks = None
    if draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(1, frames - 1)))) if frames > 1 else []
        edges = [0, *cuts, frames]
        chunks = tuple(b - a for a, b in pairwise(edges))
        if draw(st.integers(0, 9)) == 9:
            chunks = (*chunks, 1)
    branches = draw(st.sampled_from([("c",), ("u", "c"), ("u", "c", "third")]))
    falls = draw(st.lists(st.sampled_from([62.5, 31.25, 93.75, 0.0]), min_size=7, max_size=12))
    distances = draw(st.lists(st.floats(0.05, 0.2), min_size=1, max_size=8))
    return Example(
        draw(some_settings()), grid, chunks, draw(st.integers(1, 2)), branches, tuple(falls),
        tuple(distances), draw(st.sampled_from([False, False, True])), draw(st.integers(0, 2**16)),
    )  # fmt: skip


def in_range(name, value):
    low, high = RANGES[name]
    kind = int if name in WHOLE else (int, float)
    return isinstance(value, kind) and low <= value <= high


def spoilt(example):
    """The field that must be refused, if there is one."""
    wrong = [n for n in RANGES if not in_range(n, example.settings[n])]
    return wrong + [n for n, allowed in CHOICES.items() if example.settings[n] not in allowed]


def timesteps(example):
    """Of every latent frame, step by step; chunks have noise levels of their own."""
    level, rows = 1000.0, []
    for fall in example.falls:
        level -= fall / 2
        chunks = example.chunks or (example.grid[0],)
        rows.append([level - 31.25 * i for i, n in enumerate(chunks) for _ in range(n)])
    return rows


@pytest.fixture(scope="module")
def valid(root):
    schema = json.loads((root / "motioncache_core/report/report.schema.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator(schema).validate


@given(example=some_example())
@examples(120)
def test_a_run_of_anything(valid, example):
    wrong = spoilt(example)
    if wrong:
        with pytest.raises(SettingsError, match=wrong[0] if len(wrong) == 1 else "is"):
            MotionCacheSettings(**example.settings)
        return
    chosen = MotionCacheSettings(**example.settings)
    network = DoublingNet(blocks=1, attention=1, timed=True, placed=True)
    levels = timesteps(example)
    schedule = [max(row) / 1000 for row in levels] + [0.0] if example.known_schedule else ()
    run = Run(
        network, chosen, chunks=example.chunks, profile=Drawn(list(example.distances)),
        branches=len(example.branches), sigmas=schedule,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(example.seed)
    batch = example.samples * len(example.branches)
    caches = [ByHand(chosen.forecast) for _ in range(batch)]
    if example.chunks and sum(example.chunks) != example.grid[0]:
        # a run that is declined never looks at them
        if run.trace.reason:
            return
        with pytest.raises(CacheShapeError, match="do not add up to the clip's"):
            call(run, example, levels[0], rng)
        return
    done = []
    for row in levels:
        x, t, got = call(run, example, row, rng)
        assert torch.isfinite(got).all()
        done.append((row, x, got, network(x, t)))
    # tells which rows were computed
    run.session.close()
    for step, (row, x, got, plain) in enumerate(done):
        if run.trace.reason:
            assert torch.equal(got, plain)
            continue
        timestep = np.repeat(np.array(row), example.grid[1] * example.grid[2])[:, None]
        for b, cache in enumerate(caches):
            active = executed(run, chosen, example, step, b // example.samples)
            wanted = cache.call(tokens(x[b]), timestep, active)
            np.testing.assert_allclose(tokens(got[b]), wanted, rtol=1e-4, atol=1e-2)
            if np.array_equal(cache.values, tokens(x[b])):
                exact = tokens(plain[b])[active]
                np.testing.assert_allclose(tokens(got[b])[active], exact, rtol=1e-6)
    counts_add_up(run.trace, len(levels), batch)
    valid(json.loads(as_json(run.trace)))


def call(run, example, row, rng):
    """One call with whole numbers, whose sums are exact."""
    batch = example.samples * len(example.branches)
    x = torch.randint(-3, 4, (batch, 2, *example.grid), generator=rng).float()
    t = torch.tensor(row if example.chunks else row[:1]).expand(batch, -1)
    t = t if example.chunks else t[:, 0]
    if torch.randint(3, (), generator=rng) == 0 and hasattr(run, "last"):
        # an input that did not change: stored keys and values are fresh
        x = run.last
    run.last = x
    return x, t, run.call(x, t, branches=example.branches)


def tokens(x):
    return x.flatten(1).T.double().numpy()


def executed(run, chosen, example, step, branch):
    """Rows that were computed for a branch."""
    done = run.trace.calls()[step]
    count = np.prod(example.grid)
    if done.kind != "partial":
        return np.full(count, done.kind == "dense")
    separate = chosen.cfg_mask == "separate"
    return run.trace.active_mask(step * len(example.branches) + branch if separate else step)


def counts_add_up(trace, steps, batch):
    calls = trace.calls()
    assert len(calls) == steps
    assert 0 <= compute_share(trace) <= 1
    for record in trace.evaluations:
        assert sum(c.tokens for c in record.chunks) == trace.tokens
    for i, record in enumerate(trace.evaluations):
        mask = trace.active_mask(i)
        ends = [0, *accumulate(c.tokens for c in record.chunks)]
        for chunk, start, stop in zip(record.chunks, ends, ends[1:], strict=False):
            assert chunk.active == mask[start:stop].sum()
    for done in calls:
        assert done.rows == batch
        whole = {"dense": trace.tokens, "reuse": 0, "declined": trace.tokens}.get(done.kind)
        assert done.computed == whole or (whole is None and 0 < done.computed <= trace.tokens)


@given(data=st.data())
@examples(15)
def test_a_small_wan_with_any_active_rows(data):
    network = small_wan(1, 2)
    frames = data.draw(st.integers(1, 4))
    size = (frames, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    count = frames * -(-size[1] // 2) * -(-size[2] // 2)
    batch = data.draw(st.integers(1, 2))
    rows = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(batch, 16, *size, generator=rng)
    text = torch.randn(batch, TEXT_TOKENS, TEXT_DIM, generator=rng)
    t = torch.full((batch,), 700.0)
    if data.draw(st.booleans()):
        t = t[:, None] - 50 * torch.arange(frames)
    with pytest.MonkeyPatch.context() as patch:
        dictate(patch, "dense", rows)
        place = data.draw(st.sampled_from(["gpu", "cpu"]))
        run = Run(network, MotionCacheSettings(kv_cache=place))
        wanted = run.call(x, t, text)
        # active rows as in the dense evaluation, the others x + r of it
        assert_close("output", wanted, run.call(x, t, text))
    assert torch.equal(wanted, network(x, t, text))
    kept = count > 0 and (frames > 1 or place == "off")
    assert run.kinds == ["dense", "partial" if kept else "dense"]
    assert not kept or run.trace.calls()[1].computed == len(rows)
