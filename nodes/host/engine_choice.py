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
from ...motioncache_core.common.phrases import phrase
from ...motioncache_core.common.reasons import Reason, because
from ...motioncache_core.models.adapter import Adapter
from ...motioncache_core.models.registry import find_adapter_of_class
from .compiled import plain
from .foreign import foreign_before

# of a host's model, and its class, which other nodes patch in the same way
_NETWORK, _CLASS = "diffusion_model", "diffusion_model.__class__"


def adapter_of(model: Any) -> tuple[Adapter | None, Reason | None]:
    """The adapter of the network that a model will run with, and why its tokens cannot be told
    apart."""
    network = plain(model.get_model_object(_NETWORK))
    kind = type(network)
    if network is model.model.diffusion_model:
        # another clone may have been sampled with another class, which goes when this one is loaded
        kind = model.get_model_object(_CLASS)
    try:
        adapter, why = find_adapter_of_class(kind)
    except UnsupportedModelError:
        return None, because("model_unknown", name=kind.__name__)
    return adapter, why or adapter.unfit(network)


def known_adapter(network: Any) -> Adapter | None:
    """The adapter of a network; None where there is none."""
    try:
        return find_adapter(network)[0]
    except UnsupportedModelError:
        return None


def why_no_tokens(
    guider: Any, model_options: Mapping[str, Any], noise: Tensor, sigmas: Tensor
) -> Reason | None:
    """Why a run cannot tell tokens apart, as far as that is known before it starts.

    Args:
        sigmas: noise levels of the run, with the one it ends at.
    """
    adapter, why = adapter_of(guider.model_patcher)
    packed = adapter is not None and why is None and adapter.packed
    if noise.ndim != (3 if packed else 5):
        return because("no_video", shape=tuple(noise.shape))
    if len(sigmas) > 1 and float(sigmas[0]) < float(sigmas[-1]):
        return because("noise_rises")
    if adapter is None or why is not None:
        return why
    if packed and model_options.get("context_handler") is not None:
        return because("windows_unknown", kind=phrase("over video and sound together"))
    patches = model_options.get("transformer_options", {}).get("patches", {})
    patched = adapter.patched(patches)
    if patched is not None:
        return patched
    foreign = foreign_before(
        guider.model_patcher, adapter, model_options.get("transformer_options", {})
    )
    if foreign is not None:
        return foreign
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
