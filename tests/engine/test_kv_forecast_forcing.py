"""The forecast of keys and values under diffusion forcing."""

from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.causal_runs import Film, sampled, together
from motioncache_pack.tests.core.causal_runs import apart as one_by_one
from motioncache_pack.tests.core.runs import Steady
from motioncache_pack.tests.support.assert_close import assert_same


def apart(got, wanted):
    return float((got - wanted).norm() / wanted.norm())


FILMS = {
    "clip": ForcingOptions(2, 2),
    "bidirectional": ForcingOptions(2, 2, attention="bidirectional"),
    "compressed": ForcingOptions(2, 2, kv_keep=1),
    "rolling, compressed": ForcingOptions(2, 4, window_frames=6, kv_keep=1),
}


@pytest.mark.parametrize("grouping", [together, one_by_one])
@pytest.mark.parametrize("name", FILMS)
def test_diffusion_forcing_that_computes_everything_is_not_changed(name, grouping):
    # finished chunks stay as they were left, and rows are at other places of the store than
    # of the clip
    film = Film((9, 4, 4), steps=10, options=FILMS[name], grouping=grouping)
    dense = MotionCacheSettings(warmup_steps=100, kv_cache="gpu")
    wanted, _ = sampled(film, dense)
    got, trace = sampled(film, replace(dense, kv_forecast=1.0))
    assert_same("latents", wanted, got)
    if name != "bidirectional":
        assert trace.kv_bytes > sampled(film, dense)[1].kv_bytes


@pytest.mark.parametrize("name", FILMS)
def test_keys_and_values_of_reused_chunks_are_forecast_for_the_others(name):
    film = Film((9, 4, 4), steps=10, options=FILMS[name])
    # chunks differ in when they are computed
    settings = MotionCacheSettings(
        policy="chunk", warmup_steps=3, reuse_threshold=0.1, max_stale_steps=0, kv_cache="gpu"
    )
    both = [sampled(film, replace(settings, kv_forecast=g), profile=Steady(0.06)) for g in (0, 1.0)]
    assert [c.kind for c in both[0][1].calls()] == [c.kind for c in both[1][1].calls()]
    assert all(x.isfinite().all() for x, _ in both)
    assert apart(both[1][0], both[0][0]) > 1e-5
