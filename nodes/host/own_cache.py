"""Models that keep keys and values of their own from call to call: ComfyUI's autoregressive Wan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.k_diffusion.sampling

from ...motioncache_core import MotionCacheSettings
from ...motioncache_core.models.adapter import qualified_name
from ...motioncache_core.models.wan_causal import NATIVE, WAN_CAUSAL
from .compiled import plain


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


class BlockCalls:
    """Which evaluations of such a run write frames into the network's keys and values, for good:
    one before the first step where an image begins the video, and one behind the last step of
    each block of frames. Their noise level is 0, but to look at it would wait for the device.

    Args:
        steps: of a block.

    Attributes:
        writes: whether the evaluation that has begun does.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._block, self._count = steps, None, 0
        self.writes = False

    def begin(self, options: Mapping[str, Any]) -> None:
        """The sampler asks for its next evaluation."""
        block = options.get(NATIVE)
        if block is None:
            return
        # the sampler makes one anew for each block
        self._count = self._count + 1 if block is self._block else 1
        self._block = block
        image = options.get("ar_config", {}).get("initial_latent")
        self.writes = self._count > self._steps or (image is not None and block["start_frame"] == 0)


def _is_causal(network: object) -> bool:
    return qualified_name(network) in WAN_CAUSAL.classes
