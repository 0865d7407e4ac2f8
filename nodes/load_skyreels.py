"""Loads a SkyReels-V2 checkpoint whole: ComfyUI's own loader drops its frame-rate embedding."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io
from torch import Tensor

from ..motioncache_core.models.skyreels import describe, fold_fps, inspect
from .host.loaders import WEIGHT_DTYPES, diffusion_model_names, load_wan_file
from .types import CATEGORY


class MotionCacheLoadSkyReels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadSkyReels",
            display_name="MotionCache Load SkyReels",
            category=f"{CATEGORY}/sampling",
            description=(
                "Loads a SkyReels-V2 diffusion-forcing model. Where the file has an embedding of "
                "the frame rate (1.3B), it is kept; ComfyUI's own loader drops it."
            ),
            search_aliases=[
                "skyreels", "skyreels v2", "diffusion forcing", "load diffusion model", "unet",
            ],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=diffusion_model_names(),
                    tooltip=(
                        "A SkyReels-V2 file in ComfyUI's models/diffusion_models folder, not in "
                        "diffusers format."
                    ),
                ),
                io.Combo.Input(
                    "fps",
                    options=["24", "16"],
                    default="24",
                    tooltip=(
                        "Frames per second that the model is told. Only the 1.3B model listens."
                    ),
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="As in ComfyUI's Load Diffusion Model.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model."),
                io.String.Output(
                    display_name="text",
                    tooltip="What the file is, and the settings recommended for it.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model_name: str, fps: str, weight_dtype: str) -> io.NodeOutput:
        told = ""

        def prepare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            nonlocal told
            told = describe(inspect(tensors), int(fps), model_name)
            return fold_fps(tensors, int(fps))

        model = load_wan_file(model_name, weight_dtype, prepare)
        return io.NodeOutput(model, told)
