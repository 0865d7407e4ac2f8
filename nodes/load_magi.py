"""Loads MAGI-1, which ComfyUI does not know."""

from __future__ import annotations

from comfy_api.latest import io

from ..motioncache_core.models.magi1.checkpoint import KINDS
from .host.loaders import diffusion_model_names
from .host.magi_loader import PRECISIONS, WEIGHT_DTYPES, load_magi
from .types import CATEGORY


class MotionCacheLoadMagi(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadMagi",
            display_name="MotionCache Load Magi",
            category=f"{CATEGORY}/sampling",
            description=(
                "Loads MAGI-1 (4.5B or 24B, base or distilled, bf16 or 8 bits), which ComfyUI's "
                "own loaders do not know, as a model that takes LoRAs and partial loading. Use it "
                "with MotionCache Magi Sampling."
            ),
            search_aliases=["magi", "magi-1", "sand ai", "load diffusion model", "unet"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=diffusion_model_names(),
                    tooltip=(
                        "A MAGI-1 file in ComfyUI's models/diffusion_models folder, or one of its "
                        "shards; the others are read from the same folder."
                    ),
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="auto",
                    tooltip=(
                        "Base or distilled model. The file does not tell; auto goes by its name "
                        "and folder."
                    ),
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    advanced=True,
                    tooltip=(
                        "How the large weights are kept. fp8 halves their memory and costs "
                        "accuracy. default keeps bf16; published 8-bit files are unpacked."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fast",
                    advanced=True,
                    tooltip=(
                        "published computes one layer of each block in fp32, as the original: "
                        "slower by a third or more, and hardly different. fast keeps it in bf16."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model."),
                io.String.Output(
                    display_name="text",
                    tooltip="What the file is, and the settings recommended for it.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model_name: str, kind: str, weight_dtype: str, precision: str
    ) -> io.NodeOutput:
        model, told = load_magi(model_name, kind, weight_dtype, precision)
        return io.NodeOutput(model, told)
