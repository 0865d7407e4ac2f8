"""What ComfyUI tells of devices and their memory, and how it makes room."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch

from .. import kernels
from ..motioncache_core import (
    DeviceSessions,
    MapExchange,
    MotionCacheSettings,
    RunFacts,
    Session,
    Trace,
)


def memory_facts(device: torch.device) -> dict[str, Any]:
    """`RunFacts` on memory: how much is free, and how to ask for more."""
    management = comfy.model_management

    def make_room(nbytes: int) -> None:
        # models of this run stay; text encoders and the like make way
        used = [m for m in management.current_loaded_models if m.currently_used]
        management.free_memory(nbytes, device, keep_loaded=used)

    return {
        "free_memory": lambda: int(management.get_free_memory(device)),
        "free_host_memory": lambda: int(management.get_free_memory(torch.device("cpu"))),
        "make_room": make_room,
    }


def on_devices(
    patcher: Any,
    settings: MotionCacheSettings,
    facts: RunFacts,
    trace: Trace,
    on_call: Callable[[Trace], None] | None = None,
) -> DeviceSessions:
    """The sessions of a run, on the model's device and on those of its multi-GPU clones.

    Args:
        facts: of the run on the model's device.
    """
    clones = getattr(patcher, "additional_models", {}).get("multigpu", [])
    devices = 1 + len(clones)
    if devices > 1:
        free = facts.free_host_memory
        facts = replace(
            facts,
            # the host spreads the branches evenly, and they share its memory
            branches=-(-facts.branches // devices),
            free_host_memory=None if free is None else lambda: free() // devices,
            exchange=MapExchange(),
        )

    def make(device: Hashable, kept: Trace) -> Session:
        own = facts
        if device != patcher.load_device and isinstance(device, torch.device):
            memory = memory_facts(device)
            memory["free_host_memory"] = facts.free_host_memory
            own = replace(facts, **memory)
        return Session(settings, kernels, own, kept, on_call if kept is trace else None)

    return DeviceSessions(make, patcher.load_device, trace)
