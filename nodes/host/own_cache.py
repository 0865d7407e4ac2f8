"""Models that keep keys and values of their own from call to call: ComfyUI's autoregressive Wan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.k_diffusion.sampling
import torch
from torch import Tensor

from ...motioncache_core import DeviceSessions, ModelCall, MotionCacheSettings
from ...motioncache_core.common.host_transfer import read
from ...motioncache_core.common.reasons import because
from ...motioncache_core.models.adapter import qualified_name
from ...motioncache_core.models.wan_causal import NATIVE, WAN_CAUSAL
from .compiled import plain

SESSION = "motioncache_session"


def keeps_own_cache(patcher: Any, sampler: Any) -> bool:
    """Whether the run's sampler has the model keep keys and values block of frames by block."""
    function = getattr(sampler, "sampler_function", None)
    known = getattr(comfy.k_diffusion.sampling, "sample_ar_video", None)
    network = plain(patcher.get_model_object("diffusion_model"))
    return known is not None and function is known and _is_causal(network)


def for_own_cache(settings: MotionCacheSettings) -> MotionCacheSettings:
    """Settings for such a run. Its sampler adds new noise to clean frames, which no forecast
    carries over; and what its blocks added serves better than its answers do."""
    policy = "step" if settings.traits.answers else settings.policy
    return replace(
        settings, policy=policy, forecast=0.0, kv_forecast=0.0, correction=0.0, cfg_mask="shared"
    )


def evaluate(executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
             control: Any = None, transformer_options: dict[str, Any] | None = None,
             **kwargs: Any) -> Tensor:  # fmt: skip
    """APPLY_MODEL: one call of such a model, by the session of its run."""
    options = transformer_options or {}

    def run(ours: dict[str, Any]) -> Tensor:
        ends = [cache["end"] for cache in caches]
        try:
            out: Tensor = executor(x, t, c_concat, c_crossattn, control, ours, **kwargs)
        except BaseException:
            # what runs again, or what the host does next, finds them as they were
            for cache, end in zip(caches, ends, strict=True):
                cache["end"] = end
            raise
        return out

    session: DeviceSessions | None = options.get(SESSION)
    state = options.get(NATIVE)
    caches = [] if state is None else state["kv_caches"]
    if session is None or state is None or torch.compiler.is_compiling():
        return run(options)
    network = plain(executor.class_obj.diffusion_model)
    if not _is_causal(network):
        return run(options)
    level = read(t.reshape(-1)[:1])[0]
    branches = tuple(zip(options["cond_or_uncond"], options["uuids"], strict=True))
    return session.evaluate(
        ModelCall(
            network,
            run,
            x,
            t.float() * WAN_CAUSAL.timestep_scale,
            branches,
            options,
            part=state["start_frame"],
            whole=None if level > 0 else because("cache_written"),
        )
    )


def _is_causal(network: object) -> bool:
    return qualified_name(network) in WAN_CAUSAL.classes
