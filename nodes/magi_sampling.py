"""MAGI-1's sampler: chunk after chunk, each a stage behind the one before it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motioncache_core.common.errors import CacheShapeError
from ..motioncache_core.common.field_checks import declared
from ..motioncache_core.models.magi1.options import MagiOptions
from .host.compiled import plain
from .host.magi_sampler import MagiGuider, MagiSampler, check_model
from .types import CATEGORY
from .widgets import widgets


class MotionCacheMagiSampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMagiSampling",
            display_name="MotionCache Magi Sampling",
            category=f"{CATEGORY}/sampling",
            description=(
                "Samples with MAGI-1, whose chunks of 24 frames denoise one behind the other. "
                "Connect the three outputs to SamplerCustomAdvanced; with MotionCache on the "
                "model, chunks that change little are not computed."
            ),
            search_aliases=["magi", "magi-1", "autoregressive", "long video", "image to video"],
            inputs=[
                io.Model.Input("model", tooltip="From MotionCache Load Magi, or MotionCache."),
                io.Conditioning.Input("positive", tooltip="From MotionCache Magi Text."),
                *widgets(MagiOptions(), declared(MagiOptions)),
            ],
            outputs=[
                io.Guider.Output(display_name="GUIDER", tooltip="For SamplerCustomAdvanced."),
                io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(
                    display_name="SIGMAS",
                    tooltip="The noise levels of a chunk. They belong to this SAMPLER.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, **values: Any) -> io.NodeOutput:
        network = check_model(plain(model.get_model_object("diffusion_model")))
        _check_text(positive, network.config.text_width)
        sampler = MagiSampler(MagiOptions(**values))
        guider = MagiGuider(model)
        guider.set_text(positive)
        return io.NodeOutput(guider, sampler, torch.tensor(sampler.steps.sigmas))


def _check_text(positive: Any, width: int) -> None:
    shapes = [tuple(cond[0].shape) for cond in positive]
    if len(shapes) == 1 and shapes[0][0] == 1 and shapes[0][2:] == (width,):
        return
    raise CacheShapeError(
        f"the prompt has shape {', '.join(map(str, shapes)) or 'nothing'}; MAGI-1 takes one of (1, "
        f"rows, {width}). Encode it with MotionCache Magi Text and the text encoder t5xxl"
    )
