from __future__ import annotations

from abc import ABC, abstractmethod

from . import _io as io
from . import _ui as ui

__all__ = ["ComfyExtension", "io", "ui"]


class ComfyExtension(ABC):
    async def on_load(self):
        """Called once when the pack is loaded."""
        return None

    @abstractmethod
    async def get_node_list(self):
        """The node classes of the pack."""
