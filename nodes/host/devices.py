"""Sessions on the devices that ComfyUI spreads a run over."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch

from ... import kernels
from ...motioncache_core import (
    DeviceSessions,
    MapExchange,
    MotionCacheSettings,
    RunFacts,
    Session,
    Trace,
)
from .memory import memory_facts


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
        )
    # maps of different windows must not meet
    exchange = MapExchange() if devices > 1 and not facts.windows else None

    def make(device: Hashable, kept: Trace) -> Session:
        own = facts
        if device != patcher.load_device and isinstance(device, torch.device):
            memory = memory_facts(device)
            memory["free_host_memory"] = facts.free_host_memory
            own = replace(facts, **memory)
        told = on_call if kept is trace else None
        return Session(settings, kernels, own, kept, told, exchange)

    return DeviceSessions(make, patcher.load_device, trace)
