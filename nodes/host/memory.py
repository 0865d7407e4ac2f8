"""What ComfyUI tells of memory, and how it makes room."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch


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
