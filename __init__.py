"""MotionCache for ComfyUI: video models recompute the tokens that move and reuse the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import MotionCacheExtension

WEB_DIRECTORY = "./nodes/web"

__version__ = "0.1.0"


async def comfy_entrypoint() -> MotionCacheExtension:
    # imported here because pytest imports this file too, without ComfyUI and as a top-level module
    from .nodes import MotionCacheExtension

    return MotionCacheExtension()
