"""The debug node: what moved, what was computed, what was reused, as pictures."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..motioncache_core import NoMapError, TraceHandle
from ..motioncache_core.heatmap import COLORMAPS, VIEWS, render
from .host import intermediate_device
from .pictures import notice
from .types import CATEGORY, SAMPLES_TOOLTIP, TraceSocket, latest

log = logging.getLogger(__name__)


class MotionCacheMotionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMotionMap",
            display_name="MotionCache Motion Map",
            category=CATEGORY,
            description="Shows the motion map of a run, one picture per latent frame.",
            search_aliases=["motion map", "heatmap", "debug", "what was reused"],
            is_output_node=True,
            inputs=[
                TraceSocket.Input("trace", tooltip="The trace output of the MotionCache node."),
                io.Latent.Input("samples", tooltip=SAMPLES_TOOLTIP),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="motion",
                    tooltip=(
                        "motion: the weight of each token, bright where it moves. updates: how "
                        "often it was computed. staleness: how long ago. active: whether it was "
                        "computed in this evaluation."
                    ),
                ),
                io.Int.Input(
                    "step",
                    default=-1,
                    min=-1,
                    max=10000,
                    tooltip="Evaluation to show, from 0. -1 is the last one that has a map.",
                ),
                io.Combo.Input(
                    "colormap",
                    options=list(COLORMAPS),
                    default="magma",
                    tooltip="Colours from low to high.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="With images connected: 0 shows the images, 1 only the map.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Decoded frames to lay the map over."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The map, one picture per latent frame."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        trace: TraceHandle,
        samples: dict[str, Any],
        view: str,
        step: int,
        colormap: str,
        opacity: float,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        run = latest(trace)
        try:
            pictures = render(run, view, step, colormap, images, opacity)
        except NoMapError as why:
            # a debug node must not cost the run its video: other outputs may not be saved yet
            log.warning("MotionCache - %s.", why)
            pictures = notice(str(why))
        pictures = pictures.to(intermediate_device())
        return io.NodeOutput(pictures, ui=ui.PreviewImage(pictures, cls=cls))
