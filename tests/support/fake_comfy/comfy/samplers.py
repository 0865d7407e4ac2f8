"""Guider, sampler objects and schedules, with ComfyUI's order of wrappers.

OUTER_SAMPLE > PREPARE_SAMPLING > load > ON_PRE_RUN > SAMPLER_SAMPLE > per step { PREDICT_NOISE >
CALC_COND_BATCH > ON_PREPARE_STATE > APPLY_MODEL > DIFFUSION_MODEL } > ON_CLEANUP
"""

from __future__ import annotations

import math

import torch

from ..cond_batch import (  # noqa: F401
    calc_cond_batch,
    cfg_function,
    process_conds,
    sampling_function,
)
from . import sampler_helpers
from .k_diffusion import sampling as k_diffusion_sampling
from .model_patcher import create_model_options_clone
from .patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

# a default that nobody writes to
_EMPTY = {}

SAMPLER_NAMES = ["euler", "heun"]
SCHEDULER_NAMES = ["simple"]


def _chain(wrapper_type, original, owner, model_options):
    wrappers = get_all_wrappers(wrapper_type, model_options, is_model_options=True)
    return WrapperExecutor.new_class_executor(original, owner, wrappers)


class KSamplerX0Inpaint:
    def __init__(self, model, sigmas):
        self.inner_model, self.sigmas = model, sigmas

    def __call__(self, x, sigma, denoise_mask, model_options=_EMPTY, seed=None):
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        kept = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image
        )
        x = x * denoise_mask + kept * (1.0 - denoise_mask)
        out = self.inner_model(x, sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent_image * (1.0 - denoise_mask)


class Sampler:
    def max_denoise(self, model_wrap, sigmas):
        largest = float(model_wrap.inner_model.model_sampling.sigma_max)
        return float(sigmas[0]) > largest or math.isclose(largest, float(sigmas[0]), rel_tol=1e-5)


class KSAMPLER(Sampler):
    def __init__(self, sampler_function, extra_options=_EMPTY, inpaint_options=_EMPTY):
        self.sampler_function, self.extra_options = sampler_function, extra_options
        self.inpaint_options = inpaint_options

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        extra_args["denoise_mask"] = denoise_mask
        model = KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise
        schedule = model_wrap.inner_model.model_sampling
        full = self.max_denoise(model_wrap, sigmas)
        x = schedule.noise_scaling(sigmas[0], noise, latent_image, full)

        def report(state):
            if callback is not None:
                callback(state["i"], state["denoised"], state["x"], len(sigmas) - 1)

        x = self.sampler_function(
            model,
            x,
            sigmas,
            extra_args=extra_args,
            callback=report,
            disable=disable_pbar,
            **self.extra_options,
        )
        return schedule.inverse_noise_scaling(sigmas[-1], x)


def ksampler(sampler_name, extra_options=_EMPTY, inpaint_options=_EMPTY):
    function = getattr(k_diffusion_sampling, f"sample_{sampler_name}")
    return KSAMPLER(function, extra_options, inpaint_options)


def sampler_object(name):
    return ksampler(name)


def simple_scheduler(model_sampling, steps):
    table = model_sampling.sigmas
    picked = [float(table[-1 - int(i * len(table) / steps)]) for i in range(steps)]
    return torch.tensor([*picked, 0.0])


def calculate_sigmas(model_sampling, scheduler_name, steps):
    if scheduler_name not in SCHEDULER_NAMES:
        raise ValueError(
            f"the stand-in knows the schedulers {SCHEDULER_NAMES}, not {scheduler_name!r}"
        )
    return simple_scheduler(model_sampling, steps)


class CFGGuider:
    def __init__(self, model_patcher):
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds, self.cfg = {}, 1.0

    def set_conds(self, positive, negative):
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg):
        self.cfg = cfg

    def inner_set_conds(self, conds):
        self.original_conds.update(
            {name: sampler_helpers.convert_cond(cond) for name, cond in conds.items()}
        )

    def __call__(self, *args, **kwargs):
        return self.outer_predict_noise(*args, **kwargs)

    def outer_predict_noise(self, x, timestep, model_options=_EMPTY, seed=None):
        chain = _chain(WrappersMP.PREDICT_NOISE, self.predict_noise, self, self.model_options)
        return chain.execute(x, timestep, model_options, seed)

    def predict_noise(self, x, timestep, model_options=_EMPTY, seed=None):
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return sampling_function(
            self.inner_model, x, timestep, negative, positive, self.cfg, model_options, seed
        )

    def inner_sample(
        self,
        noise,
        latent_image,
        device,
        sampler,
        sigmas,
        denoise_mask,
        callback,
        disable_pbar,
        seed,
    ):
        # an empty latent stays zero, it is not shifted by the format's mean
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = self.inner_model.process_latent_in(latent_image)
        self.conds = process_conds(
            self.inner_model, noise, self.conds, device, latent_image, denoise_mask, seed
        )
        options = create_model_options_clone(self.model_options)
        options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        chain = _chain(WrappersMP.SAMPLER_SAMPLE, sampler.sample, sampler, options)
        extra_args = {"model_options": options, "seed": seed}
        out = chain.execute(
            self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )
        return self.inner_model.process_latent_out(out.float())

    def outer_sample(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
        latent_shapes=None,
    ):
        self.inner_model, self.conds, self.loaded_models = sampler_helpers.prepare_sampling(
            self.model_patcher, noise.shape, self.conds, self.model_options
        )
        device = self.model_patcher.load_device
        try:
            noise, latent_image = noise.to(device).float(), latent_image.to(device).float()
            self.model_patcher.pre_run()
            output = self.inner_sample(
                noise,
                latent_image,
                device,
                sampler,
                sigmas.to(device),
                denoise_mask,
                callback,
                disable_pbar,
                seed,
            )
        finally:
            self.model_patcher.cleanup()
        del self.inner_model, self.loaded_models
        return output

    def sample(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
    ):
        if sigmas.shape[-1] == 0:
            return latent_image
        if denoise_mask is not None:
            device = self.model_patcher.load_device
            shape = latent_image.shape
            denoise_mask = sampler_helpers.prepare_mask(denoise_mask, shape, device).float()
        self.conds = {name: [dict(c) for c in cond] for name, cond in self.original_conds.items()}
        shared_options = self.model_options
        try:
            self.model_options = create_model_options_clone(shared_options)
            sampler_helpers.prepare_model_patcher(
                self.model_patcher, self.conds, self.model_options
            )
            chain = _chain(WrappersMP.OUTER_SAMPLE, self.outer_sample, self, self.model_options)
            output = chain.execute(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed,
                latent_shapes=[latent_image.shape],
            )  # fmt: skip
        finally:
            self.model_options = shared_options
        del self.conds
        return output


def sample(
    model,
    noise,
    positive,
    negative,
    cfg,
    device,
    sampler,
    sigmas,
    model_options=_EMPTY,
    latent_image=None,
    denoise_mask=None,
    callback=None,
    disable_pbar=False,
    seed=None,
):
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider.sample(
        noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
    )


class KSampler:
    SAMPLERS, SCHEDULERS = SAMPLER_NAMES, SCHEDULER_NAMES

    def __init__(
        self, model, steps, device, sampler=None, scheduler=None, denoise=None, model_options=_EMPTY
    ):
        self.model, self.device, self.sampler = model, device, sampler
        self.model_options = model_options
        whole = steps if denoise is None or denoise > 0.9999 else int(steps / denoise)
        schedule = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, whole)
        self.sigmas = schedule.to(device)[-(steps + 1) :]

    def sample(
        self,
        noise,
        positive,
        negative,
        cfg,
        latent_image=None,
        start_step=None,
        last_step=None,
        force_full_denoise=False,
        denoise_mask=None,
        sigmas=None,
        callback=None,
        disable_pbar=False,
        seed=None,
    ):
        sigmas = self.sigmas if sigmas is None else sigmas
        if last_step is not None and last_step < len(sigmas) - 1:
            sigmas = sigmas[: last_step + 1].clone()
            sigmas[-1] = 0 if force_full_denoise else sigmas[-1]
        if start_step is not None:
            if start_step >= len(sigmas) - 1:
                return torch.zeros_like(noise) if latent_image is None else latent_image
            sigmas = sigmas[start_step:]
        return sample(
            self.model, noise, positive, negative, cfg, self.device, sampler_object(self.sampler),
            sigmas, self.model_options, latent_image, denoise_mask, callback, disable_pbar, seed,
        )  # fmt: skip
