"""The MAGI-1 that the pack makes itself, through all of its nodes in the real ComfyUI."""

import importlib

import pytest
import torch
from motioncache_pack.motioncache_core.models.magi1.options import MagiOptions

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

STEPS = 8


@pytest.fixture
def run(pack):
    """`run(kind, take, start)`: latents and frames of a short video."""
    nodes = importlib.import_module("nodes")

    def go(kind="distill", take=0, start=None, frames=48):
        model, text, vae = pack.execute("MotionCacheMagiTiny", kind, take)
        (latent,) = pack.execute("MotionCacheMagiLatent", 64, 48, frames, start)
        values = {k: getattr(MagiOptions(steps=STEPS), k) for k in MagiOptions.__slots__}
        guider, sampler, sigmas = pack.execute("MotionCacheMagiSampling", model, text, **values)
        random = torch.Generator().manual_seed(1)
        samples = guider.sample(
            torch.randn(latent["samples"].shape, generator=random), latent["samples"], sampler,
            sigmas, denoise_mask=latent.get("noise_mask"), disable_pbar=True, seed=1,
        )  # fmt: skip
        (frames,) = nodes.VAEDecode().decode(vae, {"samples": samples})
        return samples, frames

    return go


def test_it_draws_the_same_noise_again_and_other_noise_otherwise(run):
    samples, frames = run()
    assert samples.shape == (1, 16, 12, 6, 8) and frames.shape == (48, 48, 64, 3)
    assert frames.isfinite().all() and frames.std() > 0.05
    assert torch.equal(run()[0], samples)
    assert not torch.allclose(run(take=1)[0], samples, atol=0.1)
    assert not torch.allclose(run(kind="base")[0], samples, atol=0.1)


def test_it_goes_on_from_a_picture_and_from_a_video(run, pack):
    _, _, vae = pack.execute("MotionCacheMagiTiny", "distill", 0)
    nodes = importlib.import_module("nodes")
    for frames, chunks in ((1, 3), (32, 4)):
        (start,) = nodes.VAEEncode().encode(vae, torch.rand(frames, 48, 64, 3))
        samples, _ = run(start=start)
        given = start["samples"].shape[2]
        assert samples.shape[2] == 6 * chunks
        torch.testing.assert_close(samples[:, :, :given], start["samples"], atol=1e-5, rtol=1e-5)
        assert samples[:, :, given:].std() > 0.1


def test_the_tiny_text_is_as_wide_as_the_tiny_model(pack):
    model, ((rows, more),), _ = pack.execute("MotionCacheMagiTiny", "base", 3)
    network = model.model.diffusion_model
    assert not network.distilled
    assert rows.shape[2] == more["magi_durations"].shape[1] == network.config.text_width
    assert len(more["magi_durations"]) == 8
    # the host may make it again, for another device
    build, arguments = model.cached_patcher_init
    again = build(*arguments).model.diffusion_model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in network.state_dict().items())
