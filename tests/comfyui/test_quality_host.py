"""The quality bench's runs of ComfyUI's own caches."""

import importlib
import os

import pytest
import torch

pytestmark = pytest.mark.comfy


@pytest.fixture
def hosted(host, bench, monkeypatch):
    """A short clip in ComfyUI, and our own uncached video of it."""
    cases = bench("quality.cases")
    monkeypatch.setenv(cases.STEPS, "14")
    monkeypatch.setattr(cases, "FRAMES", {**cases.FRAMES, cases.ORDINARY: 3})
    clip = cases.case(cases.ORDINARY, 1)
    video = clip.decode(clip.uncached())
    return bench("quality.host").HostCase(clip, video)


def test_the_hosts_uncached_video_is_ours(hosted):
    found = hosted.run("EasyCache", 0.0)
    assert found["host_psnr"] > 60 > hosted.SAME
    assert found["compute_share"] == 1 and found["psnr"] == 99


@pytest.mark.parametrize("kind", ["EasyCache", "LazyCache"])
def test_a_cache_saves_calls_and_costs_quality(hosted, kind):
    some, more = (hosted.run(kind, threshold) for threshold in (0.1, 0.6))
    assert 1 > some["compute_share"] > more["compute_share"] > 0.1
    assert some["host_psnr"] == more["host_psnr"]
    assert all(99 > run["psnr"] > 15 for run in (some, more))
    # LazyCache is closer here with fewer calls
    assert kind == "LazyCache" or some["psnr"] > more["psnr"]


def test_easycache_gets_a_copy_of_its_own(hosted):
    """It writes into its input, which is the sampler's own where nothing is appended to it."""
    node = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode
    model = node.execute(hosted._guarded(), 0.3, 0.15, 0.95, False).result[0]
    wrappers = model.wrappers["diffusion_model"]
    # the first is the outermost
    assert list(wrappers) == ["private copy", "easycache"]
    (private,) = wrappers["private copy"]
    given = torch.zeros(3)
    assert private(lambda x, scale: x.add_(scale), given, 2.0).tolist() == [2.0] * 3
    assert given.tolist() == [0.0] * 3


def test_only_ordinary_clips_go_there(host, bench):
    assert os.environ["COMFYUI_PATH"] and bench("quality.host").peers_wanted()
    cases = bench("quality.cases")
    clip = cases.case(cases.FORCING, 0)
    with pytest.raises(ValueError, match="'forcing' cannot"):
        bench("quality.host").HostCase(clip, None)
