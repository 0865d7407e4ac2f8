"""Two videos of one seed, with and without MotionCache: how far apart they are, and where."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..motioncache_core import TraceHandle
from ..motioncache_core.common.phrases import as_data, together
from ..motioncache_core.report.node_text import faster_than
from ..motioncache_core.report.two_runs import about_times, seconds_of, times
from ..motioncache_core.report.video_quality import compare, headline, plain_words, text
from .host.live_text import LiveText
from .host.loaders import intermediate_device
from .pictures.comparison import CAPTIONS, MODES, WITH, WITHOUT, ComparePictures
from .types import CATEGORY, SAID, TraceSocket


class MotionCacheCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheCompare",
            display_name="MotionCache Compare",
            category=CATEGORY,
            description=(
                "How close a video made with MotionCache is to the same one made without: PSNR, "
                "SSIM, flicker, and a map of the error. Sample the same seed twice."
            ),
            search_aliases=[
                "compare videos", "psnr", "ssim", "difference", "side by side", "quality",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "reference", display_name=WITHOUT, tooltip="Frames made without MotionCache."
                ),
                io.Image.Input(
                    "candidate",
                    display_name=WITH,
                    tooltip="Frames of the same seed and size made with MotionCache.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip=(
                        "side by side: both, and the error beside them. wipe: left of a line "
                        "without MotionCache, right of it with. difference: the error alone."
                    ),
                ),
                io.Float.Input(
                    "gain",
                    default=0.0,
                    min=0.0,
                    max=255.0,
                    step=0.5,
                    tooltip=(
                        "The error is multiplied by this before it is shown; 0 takes what fits. "
                        "The numbers do not change."
                    ),
                ),
                io.Float.Input(
                    "position",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Where the line of the wipe is, from 0 (left) to 1 (right).",
                ),
                TraceSocket.Input(
                    "reference_trace",
                    display_name="trace without",
                    optional=True,
                    tooltip=(
                        "Says how long the run without MotionCache took: the trace of a "
                        "MotionCache node whose preset is off, or the demo model's."
                    ),
                ),
                TraceSocket.Input(
                    "trace",
                    display_name="trace with",
                    optional=True,
                    tooltip="Says how long the run with MotionCache took: that node's trace.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="One picture per frame, with names and numbers."
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="PSNR, SSIM and temporal PSNR, of the video and of every frame.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        reference: Tensor,
        candidate: Tensor,
        mode: str,
        gain: float,
        position: float = 0.5,
        reference_trace: TraceHandle | None = None,
        trace: TraceHandle | None = None,
    ) -> io.NodeOutput:
        found = compare(reference, candidate)
        pictures = ComparePictures(reference, candidate, found, mode, gain, position)
        runs = [None if h is None else h.latest for h in (reference_trace, trace)]
        said = together(", ", [part for part in (times(*runs), plain_words(found)) if part])
        without, took = map(seconds_of, runs)
        if trace is not None and runs[1] is not None and without and took:
            # the node whose run it was says this in the place of its estimate
            LiveText(getattr(trace, "node_id", None)).show(faster_than(runs[1], without))
        about = [words for words in (about_times(*runs),) if words]
        words = "\n".join([said, *about, text(found, reference)])
        shown = {
            **ui.PreviewText(words).as_dict(),
            SAID: [as_data(together("\n", [said, *about, headline(found), CAPTIONS[mode]]))],
            **ui.PreviewImage(pictures.preview(said, *about), cls=cls).as_dict(),
        }
        return io.NodeOutput(pictures.all().to(intermediate_device()), words, ui=shown)
