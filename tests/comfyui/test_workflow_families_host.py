"""The workflows of families on ComfyUI's own nodes and a small network of the family's own class:
what encodes texts, pictures and sound, and what decodes, is drawn at random."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.comfyui.host_families import HOST_FAMILIES
from motioncache_pack.tests.comfyui.host_weights import drawn
from motioncache_pack.tests.comfyui.test_hidden_blocks_host import CogVideo15, Mochi, Predict2
from motioncache_pack.tests.support import host_wan
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import EXAMPLES, read

pytestmark = pytest.mark.comfy

# where ComfyUI 0.33 has the nodes that are not in its own `nodes`; the first and that of latents
# import each other, and only in this order
EXTRAS = (
    "post_processing", "camera_trajectory", "canny", "cosmos", "custom_sampler", "flux", "hunyuan",
    "images", "kandinsky5", "latent", "lt", "lt_audio", "minimax_h3", "mochi", "model_advanced",
    "scail", "slg", "void", "wan", "wandancer",
)  # fmt: skip


class Void(CogVideo15):
    # noise, mask and masked video
    sizes: ClassVar = {**CogVideo15.sizes, "in_channels": 48}


@dataclass(frozen=True)
class Small:
    """A family's small network, and what stands for its encoders.

    Attributes:
        load: the model and its prompts, positive and negative.
        family: the adapter's name.
        vae: channels, and pixels and frames of a latent one.
        sound: layers and width of what the encoder of sounds gives.
        length, side: of the video, in frames and pixels.
    """

    load: Callable[[Any], tuple[Any, list[Any]]]
    family: str
    vae: tuple[int, int, int] = (16, 8, 4)
    sound: tuple[int, int] = (0, 0)
    length: int = 9
    side: int = 64


def of_family(name: str, family: str, *vae: int, **how: Any) -> Small:
    case = HOST_FAMILIES[name]
    vae = vae or (16, 8, 4)
    texts = [case.positive, case.negative]
    return Small(lambda pack: (case.model(pack.host), texts), family, vae, **how)


def of_wan(name: str, family: str, **how: Any) -> Small:
    def load(pack: Any) -> tuple[Any, list[Any]]:
        texts = [pack.host.text(seed) for seed in (1, 2)]
        return host_wan.load(pack.host, host_wan.VARIANTS[name]), texts

    return Small(load, family, **how)


def of_kind(kind: Any, family: str, *vae: int, **how: Any) -> Small:
    def load(pack: Any) -> tuple[Any, list[Any]]:
        made = kind(pack)
        return made.model, made.texts

    return Small(load, family, vae or (16, 8, 4), **how)


FAMILIES = {
    "CogVideoX VOID, take an object out": of_kind(Void, "CogVideoX", length=13),
    "Cosmos-Predict2 image to video": of_kind(Predict2, "Cosmos-Predict2"),
    "HunyuanVideo 1.5 text to video": of_family("hunyuan video 1.5", "HunyuanVideo", 32, 16, 4),
    "HunyuanVideo text to video": of_family("hunyuan video", "HunyuanVideo"),
    "Kandinsky 5 text to video": of_family("kandinsky 5", "Kandinsky 5"),
    "LTX-2 text to video with sound": of_family("ltx 2", "LTX-2", 128, 32, 8, length=17, side=128),
    "LTX-Video text to video": of_family("ltx video", "LTX-Video", 128, 32, 8, length=17, side=128),
    "MiniMax H3 text to video with sound": of_family("minimax h3", "MiniMax H3", length=22),
    "Mochi text to video": of_kind(Mochi, "Mochi", 12, 8, 6, length=13),
    "SkyReels-V1 text to video": of_family("hunyuan video", "HunyuanVideo"),
    "Wan 2.1 Fun Camera": of_wan("fun camera", "Wan Fun-Camera"),
    "Wan 2.1 Fun Control": of_wan("fun control", "Wan"),
    "Wan 2.1 HuMo, a person speaks": of_wan("humo", "Wan HuMo", sound=(33, 1280)),
    "Wan 2.1 Phantom": of_wan("phantom", "Wan"),
    "Wan 2.1 SCAIL-2, replace a character": of_wan("scail 2", "Wan SCAIL"),
    "Wan 2.1 VACE": of_wan("vace", "Wan VACE"),
    "Wan 2.2 Animate": of_wan("animate", "Wan Animate"),
    "Wan 2.2 S2V, sound to video": of_wan("s2v", "Wan S2V", sound=(25, 1024)),
    "WanDancer, music to dance": of_wan("dancer", "WanDancer"),
}


class Vae:
    """Latents of the family's size, whatever the pictures; and the sizes of LTX-2's sound."""

    latent_channels = 8
    first_stage_model = SimpleNamespace(
        latent_frequency_bins=16, num_of_latents_from_frames=lambda frames, rate: 7
    )

    def __init__(self, channels: int, pixels: int, frames: int) -> None:
        self.sizes = channels, pixels, frames

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        channels, pixels, frames = self.sizes
        count, height, width, _ = pictures.shape
        return drawn(1, channels, (count - 1) // frames + 1, height // pixels, width // pixels)

    def spacial_compression_encode(self) -> int:
        return self.sizes[1]


class Clip:
    """A text encoder that a node calls itself."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def tokenize(self, words: str, **how: Any) -> str:
        return words

    def encode_from_tokens_scheduled(self, tokens: str) -> Any:
        return self.text


@dataclass
class Run:
    """A workflow with a small network for its model."""

    pack: Any
    small: Small
    prompt: dict[str, Any]
    made: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model, self.texts = self.small.load(self.pack)
        # prompts in the order of the nodes; the text that names an object comes to nothing
        words = [n for n, node in self.prompt.items() if node["class_type"] == "CLIPTextEncode"]
        words.sort(key=lambda n: _is_object(self.prompt, n))
        self.said = dict(zip(words, [*self.texts, None], strict=False))
        for node in self.prompt.values():
            sizes = {"width": self.small.side, "height": self.small.side, "length": 0}
            for name in ("length", "frames_number", "video_frames"):
                sizes[name] = self.small.length
            node["inputs"] |= {name: n for name, n in sizes.items() if name in node["inputs"]}

    def drawn(self, number: str, kind: str) -> tuple[Any, ...] | None:
        """Outputs of a node that is not run."""
        side, length = self.small.side, self.small.length
        video = drawn(length, side, side, 3).abs().clamp(max=1)
        layers, width = self.small.sound
        sound = {"waveform": drawn(1, 1, 5 * 16000), "sample_rate": 16000}
        heard = {
            "encoded_audio_all_layers": [drawn(1, 100, width, seed=i) for i in range(layers)],
            "audio_samples": 5 * 16000,
        }
        clip, vae = Clip(self.texts[0]), Vae(*self.small.vae)
        if kind == "CLIPTextEncode":
            return (self.said[number],)
        if "sam3" in str(self.prompt[number]["inputs"].get("ckpt_name")):
            return None, clip, None
        return {
            "AudioEncoderEncode": (heard,), "AudioEncoderLoader": (None,), "CLIPLoader": (clip,),
            "CLIPVisionEncode": (host_wan.Picture(),), "CLIPVisionLoader": (None,),
            "CheckpointLoaderSimple": (self.model, clip, vae), "CreateVideo": (None,),
            "DualCLIPLoader": (clip,), "GetVideoComponents": (video, sound, 16.0, 8, ""),
            "LTXAVTextEncoderLoader": (clip,), "LTXVAudioVAEDecode": (sound,),
            "LTXVAudioVAELoader": (vae,), "LoadAudio": (sound,), "LoadImage": (video[:1], None),
            "LoadVideo": (None,), "LoraLoaderModelOnly": (self.model,),
            "SAM3_Detect": (video[..., 0].round(), None), "SAM3_VideoTrack": (None,),
            "SCAIL2ColoredMask": (video.round(), video[:1].round()), "SaveVideo": (None,),
            "UNETLoader": (self.model,), "VAEDecode": (video,), "VAEDecodeAudio": (sound,),
            "VAEDecodeTiled": (video,), "VAELoader": (vae,),
        }.get(kind)  # fmt: skip

    def output(self, number: str) -> tuple[Any, ...]:
        if number not in self.made:
            node = self.prompt[number]
            found = self.drawn(number, node["class_type"])
            self.made[number] = found or self.executed(node["class_type"], node["inputs"])
        return self.made[number]

    def executed(self, kind: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
        given = {
            name: self.output(value[0])[value[1]] if isinstance(value, list) else value
            for name, value in inputs.items()
        }
        if kind in self.pack.nodes:
            return self.pack.execute(kind, **given)
        node = host_node(kind)
        if hasattr(node, "define_schema"):
            return node.execute(**given).result
        return getattr(node(), node.FUNCTION)(**given)

    def of(self, kind: str) -> str:
        (number,) = (n for n, node in self.prompt.items() if node["class_type"] == kind)
        return number


def _is_object(prompt: dict[str, Any], number: str) -> bool:
    source, _ = prompt[number]["inputs"]["clip"]
    return "sam3" in str(prompt[source]["inputs"].get("ckpt_name"))


@functools.cache
def host_node(kind: str) -> Any:
    names = ("nodes", *(f"comfy_extras.nodes_{name}" for name in EXTRAS))
    for module in map(importlib.import_module, names):
        known = {**vars(module), **getattr(module, "NODE_CLASS_MAPPINGS", {})}
        if kind in known:
            return known[kind]
    raise KeyError(kind)


def test_every_workflow_of_a_family_is_here():
    models = ("Demo ", "MAGI-1 ", "SkyReels-V2 ", "Wan 2.1 autoregressive", "Wan 2.2 14B")
    plain = ("Wan 2.1 text to video", "Wan 2.1 image to video", "Wan 2.2 5B")
    assert set(FAMILIES) == {n for n in EXAMPLES if not n.startswith((*models, *plain))}


@pytest.mark.parametrize("preset", ["balanced", "motion"])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_runs_with_a_small_network_of_its_family(pack, name, preset):
    run = Run(pack, FAMILIES[name], signatures.to_api(read(name)))
    patcher = run.of("MotionCachePatcher")
    types = {node["class_type"] for node in run.prompt.values()}
    followed = "VOIDSampler" not in types
    # guidance by layers that are left out wants all tokens in order
    by_layers = "SkipLayerGuidanceDiTSimple" in types
    inputs = run.prompt[patcher]["inputs"]
    assert inputs["preset"] == ("balanced" if followed else "motion")
    inputs["preset"] = preset
    told = run.output(run.of("MotionCacheReport"))[0]
    assert torch.is_tensor(run.output(run.of("MotionCacheMotionMap"))[0])
    trace = run.made[patcher][1].latest
    steps = next(n["inputs"]["steps"] for n in run.prompt.values() if "steps" in n["inputs"])
    kinds = [e.kind for e in trace.evaluations]
    if preset == "motion":
        assert trace.reason == "" and not trace.declined_calls, told
        assert trace.model == FAMILIES[name].family, told
        assert "tokens_unknown" not in map(code_of, trace.remarks), told
        assert len(kinds) == steps and {"dense", "reuse" if by_layers else "partial"} <= set(kinds)
        assert ("tokens_lost" in map(code_of, trace.remarks)) == by_layers, told
    elif followed:
        assert trace.reason == "" and "nothing was reused" not in told
        assert len(kinds) == steps and kinds.count("dense") == round(0.4 * steps), told
    else:
        assert "VOID_DDIM is not known" in told
