"""The node for models of raylight, between its loader and its samplers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..motioncache_core import PRESETS, MotionCacheSettings
from .host.raylight import ACTORS, attach_to_ranks
from .types import CATEGORY, SettingsSocket, TraceSocket, chosen_settings

ActorsSocket = io.Custom(ACTORS)


class MotionCacheRay(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheRay",
            display_name="MotionCache (Ray)",
            category=CATEGORY,
            description=(
                "MotionCache for raylight, which computes a video on several GPUs with a process "
                "for each. All of them compute the same evaluations. Put it behind raylight's "
                "loader, before its sampler."
            ),
            search_aliases=["raylight", "multi gpu", "usp", "fsdp", "motion cache ray"],
            inputs=[
                ActorsSocket.Input("ray_actors", tooltip="From raylight's model loader."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="balanced",
                    tooltip=(
                        "How much of the run is computed, as in the MotionCache node. Choose off "
                        "rather than bypass the node: raylight's models stay as they were."
                    ),
                ),
                SettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="From MotionCache Settings. Replaces the preset when connected.",
                ),
            ],
            outputs=[
                ActorsSocket.Output(
                    display_name="ray_actors", tooltip="The models with MotionCache."
                ),
                TraceSocket.Output(
                    display_name="trace",
                    tooltip="What happened in the first process, for the motion map and report.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, ray_actors: dict[str, Any], preset: str, settings: MotionCacheSettings | None = None
    ) -> io.NodeOutput:
        chosen = chosen_settings(preset, settings)
        return io.NodeOutput(ray_actors, attach_to_ranks(ray_actors, chosen))
