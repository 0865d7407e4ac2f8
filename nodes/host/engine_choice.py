"""Which engine serves a run: single tokens of networks that are known, or whole evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...motioncache_core import (
    PRESETS,
    MotionCacheSettings,
    UnsupportedModelError,
    find_adapter,
)
from ...motioncache_core.common.reasons import Reason, because
from ...motioncache_core.models.adapter import Adapter
from .compiled import plain


def adapter_of(model: Any) -> tuple[Adapter | None, Reason | None]:
    """The adapter of a model's network, and why its tokens cannot be told apart."""
    network = plain(model.get_model_object("diffusion_model"))
    try:
        return find_adapter(network)
    except UnsupportedModelError:
        return None, because("model_unknown", name=type(network).__name__)


def why_no_tokens(guider: Any, model_options: Mapping[str, Any], noise: Tensor) -> Reason | None:
    """Why a run cannot tell tokens apart, as far as that is known before it starts."""
    if noise.ndim != 5:
        return because("no_video", shape=tuple(noise.shape))
    adapter, why = adapter_of(guider.model_patcher)
    if adapter is None or why is not None:
        return why
    patches = model_options.get("transformer_options", {}).get("patches", {})
    patched = adapter.patched(patches)
    if patched is not None:
        return patched
    if any("control" in cond for conds in guider.conds.values() for cond in conds or ()):
        return because("control_net")
    return None


def for_evaluations(settings: MotionCacheSettings) -> MotionCacheSettings:
    """Settings for a run that was to tell tokens apart and cannot: as much work, or that of the
    balanced preset where they go by a threshold."""
    ours = PRESETS["balanced"]
    return replace(
        ours,
        compute_budget=settings.compute_budget or ours.compute_budget,
        reuse_threshold=settings.reuse_threshold,
        end_percent=settings.end_percent,
        verbose=settings.verbose,
    )
