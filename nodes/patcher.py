"""The node between the model and the sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..motioncache_core import PRESETS, MotionCacheSettings, TraceHandle
from .host.attach import attach
from .twin import is_measured
from .types import CATEGORY, SettingsSocket, TraceSocket, chosen_settings


def _shares() -> str:
    return ", ".join(
        f"{name} {preset.compute_budget:.0%}"
        for name, preset in PRESETS.items()
        if preset.traits.answers
    )


class MotionCachePatcher(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCachePatcher",
            display_name="MotionCache",
            category=CATEGORY,
            description=(
                "Makes sampling faster, with any model: a share of the model's evaluations is "
                "computed, and the others are foretold from what it answered before. Put it behind "
                "the loader and any LoRA, before the sampler. Bypassing it is the same as not "
                "having it."
            ),
            search_aliases=[
                "motion cache", "cache", "video cache", "first block cache", "teacache",
                "easycache", "magcache", "speed up", "faster", "accelerate", "optimize",
                "skip steps", "wan", "wan speed", "hunyuan", "ltx", "skyreels", "magi",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any model. Presets motion and paper are for Wan."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="balanced",
                    tooltip=(
                        f"How many of the model's evaluations are computed: {_shares()}. The "
                        "others are foretold; more is closer to the uncached result, less is "
                        f"faster. motion computes {PRESETS['motion'].compute_budget:.0%} of the "
                        "tokens, telling single ones apart (Wan). paper is the published method, "
                        "unchanged, with thresholds (Wan). off leaves the model as it is."
                    ),
                ),
                SettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="From MotionCache Settings. Replaces the preset when connected.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with MotionCache."),
                TraceSocket.Output(
                    display_name="trace",
                    tooltip="What happened in the run, for the motion map and the report.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, preset: str, settings: MotionCacheSettings | None = None
    ) -> io.NodeOutput:
        chosen = chosen_settings(preset, settings)
        # there are no hidden values where the class is not run by the host's executor
        node_id, prompt = (getattr(cls.hidden, name, None) for name in ("unique_id", "prompt"))
        handle = TraceHandle(node_id=node_id)
        patched = attach(model, chosen, handle, node_id, is_measured(prompt, node_id))
        return io.NodeOutput(patched, handle)
