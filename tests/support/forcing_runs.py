"""Diffusion forcing through the host's guider, and the same run by the core's own loop."""

from __future__ import annotations

import functools

import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import ForcingOptions, MotionCacheSettings
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.node_runs import LAYERS

STEPS = 5
FRAMES = 7
SEED = 11
DEFAULTS = {
    "chunk_frames": 2, "chunk_delay": 2, "solver": "unipc", "attention": "block_causal",
    "condition_noise": 0.0, "window_frames": 0, "overlap_frames": 0, "kv_keep": 0,
}  # fmt: skip
NEVER = {"reuse_threshold": 0.0}


@functools.cache
def weights():
    """A small Wan in which everything matters: biases, norms, modulation, text, other frames."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        found = DemoWan(dim=128, ffn_dim=192, num_layers=LAYERS).state_dict()
        for name, w in found.items():
            if w.ndim == 1 or "modulation" in name:
                w += 0.2 * torch.randn_like(w)
            if "attn.v." in name or "attn.o." in name:
                w *= 3
            elif "norm_q" in name:
                w *= 2
        return found


def wan(pack):
    return pack.host.sd.load_diffusion_model_state_dict(dict(weights()))


def sampler(pack, **options):
    """What the node gives; `DEFAULTS` unless told otherwise."""
    return pack.execute("MotionCacheDiffusionForcing", **{**DEFAULTS, **options})[0]


def clip(frames=FRAMES, batch=1, height=6, width=8):
    """Noise, or latents, of a small clip."""
    return torch.randn(batch, 16, frames, height, width)


def extended(pack, given, frames):
    """Latents and noise mask of the node that goes on from `given`."""
    (latent,) = pack.execute("MotionCacheExtendVideo", {"samples": given}, frames)
    return latent["samples"], latent["noise_mask"]


def by_host(pack, model, noise, options, *, start=None, cfg=3.0, steps=STEPS, sigmas=None,
            how=None, prompts=None, **kwargs):  # fmt: skip
    """The guider's answer, as the host's nodes ask for it.

    Args:
        options: of the node, or a SAMPLER.
        start: latents in the host's space; none is an empty clip.
        prompts: positive and negative.
    """
    made = sampler(pack, **options) if isinstance(options, dict) else options
    positive, negative = prompts or (pack.host.text(1), pack.host.text(2))
    sigmas = pack.host.sigmas(model, steps) if sigmas is None else sigmas
    start = torch.zeros_like(noise) if start is None else start
    kwargs = {"seed": SEED, "disable_pbar": True, **kwargs}
    with torch.no_grad():
        if how == "SamplerCustom":
            kwargs["noise_mask"] = kwargs.pop("denoise_mask", None)
            return pack.host.sample.sample_custom(
                model, noise, cfg, made, sigmas, positive, negative, start, **kwargs
            )
        guider = pack.host.guider(model, positive, negative, cfg)
        return guider.sample(noise, start, made, sigmas, **kwargs)


def by_core(pack, model, noise, options, *, start=None, cfg=3.0, steps=STEPS, sigmas=None,
            prefix=0, settings=NEVER, facts=None):  # fmt: skip
    """Latents and trace of the core's loop on the same weights; latents in the host's space."""
    sigmas = pack.host.sigmas(model, steps) if sigmas is None else sigmas
    positive, negative = (pack.host.text(i)[0][0].expand(len(noise), -1, -1) for i in (1, 2))
    if start is not None:
        start = model.model.process_latent_in(start)
    latents, trace = cached_forcing_sample(
        DemoWan.from_state_dict(dict(weights())).eval(), positive, negative, noise,
        sigmas.tolist(), ForcingOptions(**{**DEFAULTS, **options}),
        MotionCacheSettings(**settings), kernels, facts,
        cfg=cfg, start=start, prefix=prefix, seed=SEED + 1,
    )  # fmt: skip
    return model.model.process_latent_out(latents), trace


def error(got, wanted):
    """Relative, of the whole tensor."""
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


def watch(pack, model, kind, seen):
    """`seen(*args)` before every call of a place in the host's chain of wrappers."""
    place = getattr(pack.host.patcher_extension.WrappersMP, kind)

    def wrapper(executor, *args, **kwargs):
        seen(*args)
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(place, "test watch", wrapper)
