"""Every setting as a widget. Defaults are the balanced preset's, all else the core declares."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..motioncache_core import PRESETS, MotionCacheSettings
from .types import CATEGORY, SettingsSocket
from .widgets import widgets

# saved workflows know widgets by this order: new ones go to the end
ORDER = (
    "compute_budget", "policy", "warmup_steps", "forecast", "hindsight", "end_percent", "verbose",
    # where single tokens are told apart
    "motion_sensitivity", "motion_source", "update_share", "max_stale_steps", "correction",
    "kv_cache", "kv_forecast", "cfg_mask",
    # the published method's
    "reuse_threshold", "uniform_updates", "agreement", "min_update_ratio",
)  # fmt: skip


class MotionCacheSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheSettings",
            display_name="MotionCache Settings",
            category=CATEGORY,
            description="All settings of MotionCache. Connect it to the MotionCache node.",
            search_aliases=["motion cache settings", "warm-up", "motion sensitivity"],
            inputs=widgets(PRESETS["balanced"], ORDER),
            outputs=[
                SettingsSocket.Output(
                    display_name="settings", tooltip="For the MotionCache node's settings input."
                )
            ],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(MotionCacheSettings(**values))
