"""The report node: what was saved, and why or why not."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..motioncache_core import TraceHandle
from ..motioncache_core.report.report_json import as_json
from ..motioncache_core.report.report_text import text
from .host.loaders import intermediate_device
from .pictures.timeline import CAPTION, labelled_timeline
from .twin import is_measured, source
from .types import CATEGORY, SAMPLES_TOOLTIP, TRACE_TOOLTIP, TraceSocket, run_of, said_by


class MotionCacheReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheReport",
            display_name="MotionCache Report",
            category=CATEGORY,
            description="Says what a run computed, what it reused, what that saved, and why.",
            search_aliases=["motion cache report", "statistics", "timeline", "debug"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                # the host takes the link away where the MotionCache node is bypassed
                TraceSocket.Input("trace", optional=True, tooltip=TRACE_TOOLTIP),
                io.Latent.Input("samples", tooltip=SAMPLES_TOOLTIP),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The report for people."),
                io.Image.Output(
                    display_name="timeline",
                    tooltip="Chunks down, evaluations across; coloured by the share computed.",
                ),
                io.String.Output(display_name="json", tooltip="The report for programs."),
            ],
        )

    @classmethod
    def execute(
        cls, trace: TraceHandle | None = None, samples: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        run = run_of(trace, samples)
        node_id, prompt = (getattr(cls.hidden, name, None) for name in ("unique_id", "prompt"))
        inputs = (prompt or {}).get(node_id, {}).get("inputs", {})
        measured = is_measured(prompt, source(inputs)) if "trace" in inputs else False
        words = text(run.trace, run.sentence, measured)
        picture = labelled_timeline(run.trace).to(intermediate_device())
        shown = {
            **said_by(words, CAPTION),
            **ui.PreviewImage(picture, cls=cls).as_dict(),
        }
        return io.NodeOutput(words, picture, as_json(run.trace, run), ui=shown)
