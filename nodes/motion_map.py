"""The debug node: what moved, what was computed, what was reused, as pictures."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..motioncache_core import MotionCacheError, NoMapError, TraceHandle
from ..motioncache_core.common.phrases import as_data
from ..motioncache_core.report.colours import COLORMAPS
from ..motioncache_core.report.motion_map import UPSCALES, VIEWS, render
from .host.loaders import intermediate_device
from .pictures.motion_map import frames_sheet, steps_sheet, with_legend
from .pictures.scrubber import KEY, UNSEEN, scrub_data
from .pictures.timeline import notice
from .types import CATEGORY, SAMPLES_TOOLTIP, TRACE_TOOLTIP, TraceSocket, run_of, said_by

log = logging.getLogger(__name__)

LAYOUTS = ("frames", "steps")


class MotionCacheMotionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMotionMap",
            display_name="MotionCache Motion Map",
            category=CATEGORY,
            description=(
                "Shows the motion map of a run, one picture per latent frame. On the node, steps, "
                "frames and views can be scrubbed without running again."
            ),
            search_aliases=["motion map", "heatmap", "debug", "what was reused"],
            is_output_node=True,
            inputs=[
                # the host takes the link away where the MotionCache node is bypassed
                TraceSocket.Input("trace", optional=True, tooltip=TRACE_TOOLTIP),
                io.Latent.Input("samples", tooltip=SAMPLES_TOOLTIP),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="motion",
                    tooltip=(
                        "motion: the weight of each token, bright where it changes fast or moves. "
                        "updates: how often it was computed. staleness: how long ago. active: "
                        "whether it was computed in this step."
                    ),
                ),
                io.Int.Input(
                    "step",
                    default=-1,
                    min=-1,
                    max=10000,
                    tooltip="Step to show, from 1; -1 is the last one that has a map.",
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
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="frames",
                    optional=True,
                    tooltip=(
                        "frames: the latent frames of one step. steps: one sheet over the run, "
                        "steps down, latent frames across."
                    ),
                ),
                io.Boolean.Input(
                    "legend",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Draw the colour bar under the pictures of the output too. The preview "
                        "and the sheet always have it."
                    ),
                ),
                io.Combo.Input(
                    "upscale",
                    options=list(UPSCALES),
                    default="nearest",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "nearest: every token is a square. smooth: values flow from token to "
                        "token, easier on the eye and less exact."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The map, one picture per latent frame, or one sheet over the steps.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        trace: TraceHandle | None = None,
        samples: dict[str, Any] | None = None,
        view: str = VIEWS[0],
        step: int = -1,
        colormap: str = COLORMAPS[0],
        opacity: float = 0.6,
        images: Tensor | None = None,
        layout: str = "frames",
        legend: bool = False,
        upscale: str = "nearest",
    ) -> io.NodeOutput:
        found = run_of(trace, samples)
        run = found.trace
        if layout not in LAYOUTS:
            allowed = ", ".join(map(repr, LAYOUTS))
            raise MotionCacheError(f"layout is {layout!r}; allowed are {allowed}")
        # people count from 1
        step = step - 1 if step > 0 else -1
        look = (colormap, images, opacity, upscale)
        unseen: str | None = None
        try:
            if layout == "steps":
                pictures = preview = steps_sheet(run, view, *look)
            else:
                pictures = render(run, view, step, colormap, images, opacity, upscale=upscale)
                preview = frames_sheet(run, view, step, *look)
                if legend:
                    pictures = torch.cat(with_legend(pictures, run, view, step, colormap))
        except NoMapError as why:
            # a debug node must not cost the run its video: other outputs may not be saved yet
            log.warning("MotionCache - %s.", why)
            pictures = preview = notice(str(why))
            unseen = why.args[0]
        shown = ui.PreviewImage(preview, cls=cls).as_dict()
        # what the page needs to show the other steps, frames and views without another run
        data = scrub_data(run, view, step, *look, shown["images"][0], layout == "steps")
        if data is not None:
            shown[KEY] = [data]
        elif unseen is not None:
            shown[UNSEEN] = [as_data(unseen)]
        if found.sentence is not None:
            shown.update(said_by(found.sentence))
        return io.NodeOutput(pictures.to(intermediate_device()), ui=shown)
