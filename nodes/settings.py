"""Every setting as a widget. Defaults are the balanced preset's, all else the core declares."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..motioncache_core import PRESETS, MotionCacheSettings
from .types import CATEGORY, SettingsSocket
from .widgets import widgets

# saved workflows know widgets by this order: new ones go to the end
ORDER = (
    "policy", "warmup_steps", "motion_sensitivity", "reuse_threshold", "uniform_updates",
    "agreement", "min_update_ratio", "max_stale_steps", "end_percent", "motion_source", "forecast",
    "cfg_mask", "kv_cache", "verbose", "kv_forecast", "update_share", "compute_budget",
    "correction", "hindsight",
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
