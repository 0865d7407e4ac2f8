"""Loads MAGI-1's VAE, which ComfyUI does not know."""

from __future__ import annotations

from comfy_api.latest import io

from .host.magi_vae import load_magi_vae, vae_names
from .types import CATEGORY


class MotionCacheLoadMagiVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheLoadMagiVAE",
            display_name="MotionCache Load Magi VAE",
            category=f"{CATEGORY}/sampling",
            description=(
                "Loads the VAE of MAGI-1 for ComfyUI's own VAE nodes. Videos always go through "
                "it in the tiles that the model was published with, so VAE Decode (Tiled) gives "
                "what VAE Decode gives."
            ),
            search_aliases=["magi vae", "magi-1 vae", "load vae"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=vae_names(),
                    tooltip=(
                        "MAGI-1's diffusion_pytorch_model.safetensors in ComfyUI's models/vae "
                        "folder, under any name."
                    ),
                ),
            ],
            outputs=[
                io.Vae.Output(
                    display_name="VAE", tooltip="For VAE Decode, VAE Encode and their tiled kin."
                )
            ],
        )

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_magi_vae(vae_name))
