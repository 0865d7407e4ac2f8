"""What diffusion forcing refuses before the network is called, and what it says then."""

from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import (
    CacheShapeError,
    ConflictError,
    SettingsError,
    UnsupportedModelError,
)
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.nodes.test_conflicts import vace
from motioncache_pack.tests.support.forcing_runs import (
    DEFAULTS,
    FRAMES,
    by_host,
    clip,
    extended,
    sampler,
    wan,
)
from motioncache_pack.tests.support.node_runs import options_of


@pytest.fixture
def refuses(pack):
    """A run that raises before the first block, and leaves the model alone."""

    def check(model, error, match, options=None, noise=None, **kwargs):
        noise = clip() if noise is None else noise
        calls, before = [], options_of(model)
        block = next(iter(getattr(model.model.diffusion_model, "blocks", [])), None)
        hook = block and block.register_forward_pre_hook(lambda *_: calls.append(1))
        with pytest.raises(error, match=match) as caught:
            by_host(pack, model, noise, options or {}, **kwargs)
        if hook:
            hook.remove()
        assert calls == []
        assert options_of(model) == before
        return str(caught.value)

    return check


@pytest.fixture
def model(pack, patched):
    plain = wan(pack)
    return pack.patch(plain)[0] if patched else plain


@pytest.mark.parametrize(("patched", "start"), [(False, torch.zeros), (True, torch.randn)])
def test_an_image_latent_is_refused(model, refuses, start):
    refuses(
        model, CacheShapeError, r"\(1, 16, 6, 8\).*frames.*empty video latent",
        noise=torch.randn(1, 16, 6, 8), start=start(1, 16, 6, 8),
    )  # fmt: skip


def masks():
    """Masks of seven frames that are no prefix, and what is said of them."""
    part = torch.ones(1, 1, FRAMES, 6, 8)
    part[:, :, :2] = 0
    part[:, :, 2, :, 4:] = 0
    middle = torch.ones(1, 1, FRAMES, 6, 8)
    middle[:, :, [0, 3]] = 0
    half = torch.full((1, 1, FRAMES, 6, 8), 0.5)
    whole = r"kept \(0\) or sampled \(1\) as a whole. Use one mask picture per latent frame"
    start = r"is sampled; only frames at the start can be given"
    return {
        "part of a frame": (part, f"latent frame 2 goes from 0 to 1.*{whole}"),
        "grey": (half, f"latent frame 0 goes from 0.5 to 0.5.*{whole}"),
        "in the middle": (middle, f"keeps latent frame 3 behind frame 1, which {start}"),
        "everything": (torch.zeros(1, 1, FRAMES, 6, 8), "7 of 7 latent frames are given.*longer"),
        "samples that differ": (
            torch.cat([torch.zeros(1, 1, FRAMES, 6, 8), torch.ones(1, 1, FRAMES, 6, 8)]), whole
        ),
    }  # fmt: skip


@pytest.mark.parametrize("patched", [False])
@pytest.mark.parametrize("name", masks())
def test_a_noise_mask_that_is_no_prefix(model, refuses, name):
    mask, match = masks()[name]
    refuses(model, SettingsError, match, noise=clip(batch=2), start=clip(batch=2),
            denoise_mask=mask)  # fmt: skip


def test_an_image_cannot_be_extended(pack):
    with pytest.raises(CacheShapeError, match=r"\(1, 16, 6, 8\).*frames.*video VAE"):
        pack.execute("MotionCacheExtendVideo", {"samples": torch.zeros(1, 16, 6, 8)}, 4)


def test_options_that_do_not_fit_each_other(pack):
    wrong = {"window_frames": 4, "overlap_frames": 3}
    with pytest.raises(SettingsError, match=r"overlap_frames is 3.*multiple.*take 2 or 4"):
        pack.execute("MotionCacheDiffusionForcing", **{**DEFAULTS, **wrong})


def test_a_delay_that_is_too_small_for_the_rolling_window(pack, refuses):
    said = "chunk_delay is 2; a rolling window of 2 chunks needs at least 3 for 5 steps. Raise"
    refuses(wan(pack), SettingsError, said, {"window_frames": 4, "chunk_delay": 2})


@pytest.mark.parametrize("patched", [True])
def test_sigmas_that_are_no_schedule(model, refuses):
    said = r"sigmas\[0\] is 14.6; .* from 0 to 1. Take them from a scheduler"
    refuses(model, SettingsError, said, sigmas=torch.tensor([14.6, 3.0, 0.0]))


def hunyuan(pack):
    """A network of another family, with its name."""

    def forward(self, x, *args, **kwargs):
        raise AssertionError("was called")

    names = {
        "__module__": "comfy.ldm.hunyuan_video.model", "forward": forward,
        # what the real host's model asks of a network that is put into it
        "runs_wrappers": True, "dtype": torch.float32,
        "patch_embedding": SimpleNamespace(weight=torch.empty(1, 16)),
    }  # fmt: skip
    return pack.host.patcher(type("HunyuanVideo", (torch.nn.Module,), names)())


@pytest.mark.parametrize(
    ("make", "match", "attention"),
    [
        (vace, r"noise level per frame.*VaceWanModel. Supported: Wan \(WanModel", "block_causal"),
        (hunyuan, r"HunyuanVideo. Supported: Wan \(WanModel", "bidirectional"),
    ],
    ids=["VACE", "Hunyuan"],
)
def test_a_network_without_a_noise_level_per_frame(pack, refuses, make, match, attention):
    said = refuses(make(pack), UnsupportedModelError, match, {"attention": attention})
    assert "ordinary sampler" in said
    # what the MotionCache node says: nothing runs here, and the node to remove is another one
    assert "foretold" not in said
    assert "Remove the node" not in said


@pytest.mark.parametrize("patched", [False])
def test_a_noise_schedule_of_another_kind(pack, model, refuses):
    # without CONST, as the nodes for epsilon and velocity prediction leave it
    flow = pack.host.model_sampling.ModelSamplingDiscreteFlow
    model.add_object_patch("model_sampling", flow(model.model.model_config))
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    refuses(model, UnsupportedModelError, "needs a flow model.*Remove the node", sigmas=sigmas)


@pytest.mark.parametrize(
    ("patched", "key", "name"),
    [(False, "easycache", "EasyCache"), (True, "rel_l1_thresh", "TeaCache")],
)
def test_another_cache(model, refuses, key, name):
    model.model_options["transformer_options"][key] = object()
    refuses(model, ConflictError, f"{name}.*Remove one of them")


@pytest.mark.parametrize("patched", [True])
def test_context_windows(model, refuses):
    model.model_options["context_handler"] = object()
    refuses(model, ConflictError, "context windows.*Remove the context window.*set window_frames")


def test_a_policy_for_the_whole_clip(pack, refuses):
    patched, handle = pack.patch(wan(pack), policy="step")
    refuses(patched, SettingsError, "policy 'step'.*use 'motion' or 'chunk'", steps=9)
    assert handle.latest is None


def test_an_image_to_video_model_cannot_be_cut_into_windows(pack, refuses):
    network = DemoWan(dim=128, ffn_dim=192, num_layers=1, in_dim=36, model_type="i2v")
    if pack.host.is_standin:
        model = pack.host.patcher(network)
    else:
        model = pack.host.sd.load_diffusion_model_state_dict(network.state_dict())
    options = {"window_frames": 4, "overlap_frames": 2}
    refuses(model, UnsupportedModelError, "images for every frame.*Set window_frames to 0", options)


def test_after_a_refusal_the_sampler_works(pack):
    model, _ = pack.patch(wan(pack))
    made, noise = sampler(pack), clip()
    wanted = by_host(pack, model, noise, made)
    start, mask = extended(pack, clip(FRAMES - 1), 1)
    with pytest.raises(SettingsError):
        by_host(pack, model, noise, made, start=start, denoise_mask=0 * mask)
    assert torch.equal(by_host(pack, model, noise, made), wanted)
