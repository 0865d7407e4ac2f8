"""A MAGI-1 that the pack makes itself, so that a workflow runs with nothing downloaded."""

from __future__ import annotations

from comfy_api.latest import io

from ..motioncache_core.models.magi1 import tiny
from ..motioncache_core.models.magi1.special_tokens import DURATIONS
from ..motioncache_core.models.magi1.vae import build_vae
from .host.magi_loader import magi_model
from .host.magi_vae import MagiVaeSocket
from .types import CATEGORY


class MotionCacheMagiTiny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MotionCacheMagiTiny",
            display_name="MotionCache Magi Tiny",
            category=f"{CATEGORY}/demo",
            description=(
                "A tiny MAGI-1 of random numbers, with a caption and a VAE of the same kind. It "
                "draws noise: made to try a workflow in seconds, not to make videos."
            ),
            search_aliases=["magi demo", "example model", "test model"],
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=["distill", "base"],
                    default="distill",
                    tooltip="How it is sampled: as the distilled or as the base model.",
                ),
                io.Int.Input(
                    "take",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Seed of the random numbers that the model consists of.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The tiny model."),
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="A caption that says nothing."
                ),
                io.Vae.Output(display_name="VAE", tooltip="A tiny VAE of the same kind."),
            ],
        )

    @classmethod
    def execute(cls, kind: str, take: int) -> io.NodeOutput:
        model = magi_model(lambda: tiny.tiny_network(take), kind == "distill")
        caption, durations = tiny.tiny_text(take)
        vae = MagiVaeSocket(build_vae(tiny.tiny_vae(take)))
        return io.NodeOutput(model, [[caption, {DURATIONS: durations}]], vae)
