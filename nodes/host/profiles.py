"""Where profiles of models are kept, and which one is a model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...motioncache_core import (
    CalibratedProfile,
    ModelProfile,
    MotionCacheSettings,
    ProfileError,
    UnsupportedModelError,
    fingerprint,
)
from ...motioncache_core.common.phrases import phrase
from ...motioncache_core.sampling.run_settings import FIXED
from .compiled import plain
from .engine_choice import adapter_of

_NETWORK = "diffusion_model"


def folder() -> Path:
    """`motioncache` in ComfyUI's models folder; need not exist."""
    import folder_paths

    return Path(folder_paths.models_dir) / "motioncache"


def identify(patcher: Any) -> str:
    """The fingerprint of a model as it was loaded, whatever LoRA is on it."""
    return fingerprint(_loaded_weights(patcher))


def _loaded_weights(patcher: Any) -> dict[str, Tensor]:
    """Parameters of the network by name. Where a patch has been written into one, what stood there
    before: the host keeps it."""
    kept = {name: entry.weight for name, entry in getattr(patcher, "backup", {}).items()}
    hooked = {name: entry[0] for name, entry in getattr(patcher, "hook_backup", {}).items()}
    network = plain(patcher.get_model_object(_NETWORK))
    found = {}
    for name, weight in network.named_parameters():
        key = f"{_NETWORK}.{name}"
        found[name] = kept.get(key, hooked.get(key, weight))
    return found


def place_of(patcher: Any, mark: str) -> Path:
    """Where the profile of the model with this fingerprint is, or would be."""
    known = _files(mark)
    if known:
        return known[0]
    return folder() / f"{_sized(patcher, 'x')}-{mark}.json".replace(" ", "-").lower()


def describe(patcher: Any) -> str:
    """Family and size of a model, for people."""
    return _sized(patcher, " wide, ") + " blocks"


def _sized(patcher: Any, between: str) -> str:
    adapter, reason = adapter_of(patcher)
    if adapter is None:
        raise UnsupportedModelError(f"there is no profile of this model: {reason}")
    facts = adapter.facts(plain(patcher.get_model_object(_NETWORK)))
    return f"{adapter.name} {facts.width}{between}{sum(facts.blocks)}"


def _files(mark: str) -> list[Path]:
    found = sorted(folder().glob(f"*{mark}.json"))
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise ProfileError(f"this model has {len(found)} profiles: {names}. Keep one of them")
    return found


def profile_for(
    patcher: Any, preset: str | None, settings: MotionCacheSettings, sigmas: Sequence[float]
) -> tuple[CalibratedProfile | None, str | None]:
    """The measure to use for a run at these noise levels, where one was recorded, and what to say
    of it. A run that goes by no measure of its own does not look for one.

    Args:
        settings: of the run.

    Raises:
        ProfileError: the model's file is corrupt, of another version or of another model.
    """
    if settings.compute_budget > 0 or settings.reuse_threshold == 0:
        return None, None
    if not any(folder().glob("*.json")):
        return None, None
    mark = identify(patcher)
    if preset in FIXED:
        known = sorted(folder().glob(f"*{mark}.json"))
        if not known:
            return None, None
        return None, phrase(
            "the profile {name} is not used: preset {preset} is as published",
            name=known[0].name,
            preset=preset,
        )
    found = _files(mark)
    if not found:
        return None, None
    profile = ModelProfile.load(found[0], mark)
    beyond = profile.uncovered(sigmas) if sigmas else None
    if beyond:
        return None, phrase(
            "the profile is not used: {beyond}. Calibrate again with this sampler", beyond=beyond
        )
    used = phrase("the profile {name}, found by the model's weights", name=profile.name)
    return profile.distance(), used
