"""Records a model once, so that MotionCache knows how fast its answer changes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.calibrate import attach_recorder
from .types import CATEGORY


class MotionCacheCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheCalibrate",
            display_name="MotionCache Calibrate",
            category=CATEGORY,
            description=(
                "Records how fast a model's answer changes while it samples without a cache, and "
                "keeps that as a small file. MotionCache finds the file by the model's weights. "
                "Only for thresholds (compute_budget 0) on models that MotionCache has no "
                "coefficients for; the presets do without. Run it once, then bypass it."
            ),
            search_aliases=["motion cache calibrate", "profile", "coefficients", "measure model"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model as MotionCache would get it: behind the loader and any LoRA. "
                        "Bypass MotionCache while this node is on."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip=(
                        "The same model; every sampling run with it is recorded, and computed in "
                        "full."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        # there are no hidden values where the class is not run by the host's executor
        return io.NodeOutput(attach_recorder(model, getattr(cls.hidden, "unique_id", None)))
