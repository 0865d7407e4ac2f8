"""ComfyUI's samplers rehearsed: on a handful of numbers, without the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...motioncache_core import RehearsalError, SamplerResponse, rehearse
from ...motioncache_core.common.phrases import phrase
from ...motioncache_core.common.reasons import Reason, because

_POST_CFG = "sampler_post_cfg_function"


class _Guider:
    """Stands in for what a sampler calls: answers with the rehearsal's numbers."""

    def __init__(self, sampling: Any, model: Callable[[Tensor, float], Tensor]) -> None:
        # samplers look up the noise schedule in either place
        held = SimpleNamespace(
            model_sampling=sampling,
            get_model_object=lambda name: {"model_sampling": sampling}[name],
        )
        self.inner_model = SimpleNamespace(inner_model=held, model_patcher=held)
        self.takes_apart, self._model = False, model

    def __call__(
        self, x: Tensor, sigma: Tensor, model_options: Mapping[str, Any] | None = None, **_: Any
    ) -> Tensor:
        denoised = self._model(x, float(sigma.reshape(-1)[0]))
        # samplers for CFG++ ask in this way for the unguided answer
        for function in (model_options or {}).get(_POST_CFG, []):
            self.takes_apart = True
            denoised = function(
                {
                    "denoised": denoised, "cond_denoised": denoised, "uncond_denoised": denoised,
                    "input": x, "sigma": sigma, "model_options": model_options, "cond_scale": 1.0,
                }
            )  # fmt: skip
        return denoised


def sampler_response(sampler: Any, sigmas: Tensor, sampling: Any) -> SamplerResponse | Reason:
    """How a sampler of the host follows from the model's answers, or why it cannot be followed.

    Args:
        sampler: as a guider is given it.
        sampling: the model's noise schedule.
    """
    function = getattr(sampler, "sampler_function", None)
    if not isinstance(sampler, comfy.samplers.KSAMPLER) or function is None:
        return because(
            "sampler_unknown", why=phrase("{name} is not known", name=type(sampler).__name__)
        )
    options = dict(sampler.extra_options)
    draws = "noise_sampler" in _parameters(function) and options.get("noise_sampler") is None
    apart = False

    def sample(model: Callable[[Tensor, float], Tensor], x: Tensor, noise: Any) -> Tensor:
        nonlocal apart
        own = {**options, "noise_sampler": lambda *_: noise(x)} if draws else options
        guider = _Guider(sampling, model)
        result: Tensor = function(
            guider,
            x.clone(),
            # some write into the schedule that they are given
            sigmas.to("cpu", x.dtype, copy=True),
            extra_args={"model_options": {}, "seed": 0, "denoise_mask": None},
            # as the host: other packs' samplers call it without a look
            callback=lambda _: None,
            disable=True,
            **own,
        )
        apart |= guider.takes_apart
        return result

    try:
        # a sampler that draws noise without asking for it must not move the run's own
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = rehearse(sample, tuple(sigmas.tolist()))
    except RehearsalError as error:
        return because("sampler_unknown", why=error.args[0])
    return replace(found, one_answer=not apart)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
