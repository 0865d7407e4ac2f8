"""Chunks with noise levels of their own, and residuals extrapolated along the noise schedule."""

import pytest
import torch
from motioncache_pack.motioncache_core.cache.forecast_clock import ForecastClock
from motioncache_pack.motioncache_core.common.errors import CacheShapeError
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import WholeClip
from motioncache_pack.tests.core.runs import Run, Steady, dictate
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.toy_models import DoublingNet

# three chunks of 2, 1 and 2 frames, 6 tokens each frame; the first is the least noisy
CHUNKS = (2, 1, 2)


def framewise(step):
    chunk = torch.tensor([600.0, 600.0, 800.0, 1000.0, 1000.0]) - 50 * step
    rng = torch.Generator().manual_seed(step)
    return torch.randn(1, 16, 5, 4, 6, generator=rng), chunk[None]


@pytest.mark.parametrize("chunks", [CHUNKS, None])
def test_a_dense_a_partial_and_a_reused_chunk_in_one_call(monkeypatch, chunks):
    # rows within a chunk, then within the clip
    steps = [
        (("dense", "dense", "dense"), range(30)),
        (("dense", [1, 4], "reuse"), [*range(12), 13, 16]),
        (("reuse", "dense", [0, 7, 11]), [*range(12, 18), 18, 25, 29]),
        (([3, 11], "reuse", "dense"), [3, 11, *range(18, 30)]),
        (("reuse", "reuse", [5]), [23]),
    ]
    if chunks is None:
        dictate(monkeypatch, "dense", *(list(rows) for _, rows in steps[1:]))
    else:
        dictate(monkeypatch, *(decision for decisions, _ in steps for decision in decisions))
    network = small_wan()
    context = torch.randn(1, TEXT_TOKENS, TEXT_DIM)
    run, oracle = Run(network, chunks=chunks), WholeClip(network)
    for step, (_, rows) in enumerate(steps):
        x, t = framewise(step)
        wanted = oracle.call(x, t, context, list(rows))
        assert_close(f"step {step}", wanted, run.call(x, t, context))
    run.session.close()
    for step, (_, rows) in enumerate(steps):
        assert run.trace.active_mask(step).nonzero()[0].tolist() == list(rows)


def toy(*frames):
    return torch.tensor(frames, dtype=torch.float32).reshape(1, 1, -1, 1, 1).repeat(1, 2, 1, 1, 1)


def test_each_chunk_warms_up_and_accumulates_for_itself():
    settings = MotionCacheSettings(
        policy="chunk", warmup_steps=1, reuse_threshold=0.25, max_stale_steps=0
    )

    class Level:
        """A chunk moves by as much as its noise level does."""

        name = "level"

        def to(self, device):
            return self

        def signal(self, tokens, modulation, sigma):
            return sigma

        def between(self, previous, current):
            return abs(current - previous)

    net = DoublingNet(blocks=1, attention=1)
    run = Run(net, settings, chunks=(1, 2), profile=Level())
    # steps of 1/8 and of 1/4: every second and every evaluation
    for step in range(5):
        run.call(toy(1, 2, 3), torch.tensor([[1000 - 125 * step, *[1000 - 250 * step] * 2]]))
    kinds = [[c.kind for c in e.chunks] for e in run.trace.evaluations]
    assert kinds[0] == ["dense", "dense"]
    assert kinds[1:] == [["reuse", "dense"], ["dense", "dense"]] * 2
    assert run.kinds == ["dense", "partial", "dense", "partial", "dense"]
    assert net.calls == [3, 2, 3, 2, 3]


def test_step_decides_for_the_whole_clip():
    settings = MotionCacheSettings(policy="step", warmup_steps=1, reuse_threshold=0.25)
    run = Run(DoublingNet(), settings, chunks=(1, 2), profile=Steady(0.125))
    for step in range(5):
        run.call(toy(1, 2, 3), torch.tensor([[900.0, 800.0, 800.0]]) - 100 * step)
    assert run.trace.chunks == (3,)
    assert run.kinds == ["dense", "reuse", "dense", "reuse", "dense"]
    assert "no partial evaluations" in run.trace.kv_reason


def test_chunks_must_cover_the_clip():
    with pytest.raises(CacheShapeError, match="do not add up to the clip's 3 latent frames"):
        Run(DoublingNet(), chunks=(1, 1)).call(toy(1, 2, 3), 1000)


def test_a_network_that_fails_without_us_fails_in_its_own_words():
    # two timesteps for three frames
    with pytest.raises(RuntimeError, match="must match the size"):
        Run(DoublingNet(timed=False)).call(toy(1, 2, 3), torch.tensor([[1000.0, 900.0]]))


def forecasting(monkeypatch, forecast, *decisions, **network):
    """A network whose residual is its input plus the timestep, which is linear in sigma."""
    dictate(monkeypatch, *decisions)
    settings = MotionCacheSettings(forecast=forecast)
    return Run(DoublingNet(blocks=1, timed=True, **network), settings)


def answers(run, *sigmas):
    return [run.call(toy(0, 0), 1000 * s)[0, 0].reshape(-1).tolist() for s in sigmas]


def test_every_row_has_a_slope_and_a_clock_of_its_own(monkeypatch):
    run = forecasting(monkeypatch, 1.0, "dense", "dense", [0], "reuse", "reuse", attention=1)
    got = answers(run, 1.0, 0.875, 0.75, 0.6875, 0.625)
    # row 0 was computed at 0.75, so it is exact to 0.625; row 1 at 0.875, so it ends at 0.75
    assert got == [[1000, 1000], [875, 875], [750, 750], [687.5, 750], [625, 750]]


def test_a_forecast_is_right_after_a_call_that_did_more_than_decided(monkeypatch):
    # without keys and values the partial decision is carried out in full
    run = forecasting(monkeypatch, 1.0, "dense", "dense", [0], "reuse")
    assert answers(run, 1.0, 0.875, 0.75, 0.6875)[3] == [687.5, 687.5]
    assert run.kinds == ["dense", "dense", "dense", "reuse"]


def test_gain_of_a_clock_by_hand():
    clock = ForecastClock.start(torch.ones(3))
    level = torch.full((3,), 0.75)
    assert clock.gain(level, 1.0).tolist() == [0, 0, 0]
    assert clock.inverse_interval(level).tolist() == [-4, -4, -4]
    clock.advance(level, torch.tensor([True, True, False]))
    assert clock.gain(torch.full((3,), 0.625), 1.0).tolist() == [-0.125, -0.125, 0]
    # two intervals ahead: damped to one
    assert clock.gain(torch.full((3,), 0.25), 0.5).tolist() == [-0.125, -0.125, 0]
    assert clock.inverse_interval(level).tolist() == [0, 0, -4]
