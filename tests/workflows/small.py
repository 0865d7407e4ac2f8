"""The example workflows with a tiny model in the place of the files that they need, and a stand-in
for the host's nodes that are left then."""

from __future__ import annotations

import importlib
import re
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.motioncache_core.demo import scenes
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support.fake_comfy import harness
from motioncache_pack.tests.workflows import small_magi

TINY = "tiny_wan.safetensors"
LOADERS = ("UNETLoader", "CheckpointLoaderSimple", "MotionCacheLoadSkyReels")
DEMO = "MotionCacheDemoModel"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom")
GUIDERS = ("BasicGuider", "DualCFGGuider")
# of a sampler or a guider, and which prompt of the demo model stands for it
PROMPTS = {"positive": 1, "conditioning": 1, "cond1": 1, "cond2": 2, "negative": 2}
DECODERS = ("VAEDecode", "VAEDecodeTiled")
# nodes of the host that the tiny model can do with; the pack's own stay too
KEPT = (
    *SAMPLERS, *GUIDERS, *DECODERS, "BasicScheduler", "KSamplerSelect", "LTXVScheduler",
    "ModelSamplingSD3", "RandomNoise", "SamplerCustomAdvanced", "SkipLayerGuidanceDiTSimple",
    "VOIDSampler",
)  # fmt: skip
# nodes that hand on what the tiny model has as a whole, and of which input
PASSED = {
    "LTXVSeparateAVLatent": "av_latent", "LatentCutToBatch": "samples",
    "LoraLoaderModelOnly": "model", "TrimVideoLatent": "samples",
}  # fmt: skip

# evaluations and latent frames of every report, in the order of the nodes. Diffusion forcing adds
# the delay of every chunk but the first; 177 frames are two windows, of 5 chunks and 4 new ones;
# one chunk after the other takes all steps for each; preset paper decides for either branch
REPORTS = {
    "CogVideoX VOID, take an object out": [(30, 12)],
    "Cosmos-Predict2 image to video": [(35, 24)],
    "Demo 1 without and with MotionCache": [],
    "Demo 2 motion map and report": [(24, 9)],
    "Demo 3 diffusion forcing": [(24 + 3 * 6, 12)],
    "Demo 4 MAGI-1 without a download": [(7 * 8, 24)],
    "HunyuanVideo 1.5 text to video": [(20, 31)],
    "HunyuanVideo text to video": [(20, 19)],
    "Kandinsky 5 text to video": [(50, 31)],
    "LTX-2 text to video with sound": [(20, 31)],
    "LTX-Video text to video": [(30, 25)],
    "MAGI-1 image to video": [(8 * 16, 30)],
    "MAGI-1 text to video": [(7 * 16, 24)],
    "MAGI-1 video extension": [(8 * 16, 36)],
    "MiniMax H3 text to video with sound": [(20, 31)],
    "Mochi text to video": [(30, 10)],
    "SkyReels-V1 text to video": [(30, 25)],
    "SkyReels-V2 diffusion forcing": [(2 * 70, 25)],
    "SkyReels-V2 long video": [(2 * (70 + 65), 25), (2 * 65, 25)],
    "Wan 2.1 Fun Camera": [(20, 21)],
    "Wan 2.1 Fun Control": [(20, 20)],
    "Wan 2.1 HuMo, a person speaks": [(30, 25)],
    "Wan 2.1 Phantom": [(40, 21)],
    "Wan 2.1 SCAIL-2, replace a character": [(40, 21)],
    "Wan 2.1 VACE": [(20, 21)],
    "Wan 2.1 autoregressive, many steps": [(7 * 50, 21)],
    "Wan 2.1 image to video": [(30, 21)],
    "Wan 2.1 text to video": [(30, 21)],
    "Wan 2.2 14B image to video": [(10, 21), (10, 21)],
    "Wan 2.2 14B text to video": [(10, 21), (10, 21)],
    "Wan 2.2 5B": [(30, 31)],
    "Wan 2.2 Animate": [(20, 20)],
    "Wan 2.2 S2V, sound to video": [(20, 20)],
    "WanDancer, music to dance": [(25, 38)],
}

Prompt = dict[str, dict[str, Any]]


def tiny_wan() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = DemoWan(dim=128, ffn_dim=128, num_layers=2, text_dim=scenes.TEXT_DIM)
    return made.state_dict()


def with_a_tiny_model(prompt: Prompt) -> Prompt:
    """The prompt with `TINY` for its files, on a small picture."""
    if small_magi.is_magi(prompt):
        return small_magi.with_a_tiny_magi(prompt)
    kinds = {number: node["class_type"] for number, node in prompt.items()}
    # prompts are the demo model's, as there is no text encoder; a text-to-video model does not look
    # at what they say of a first frame
    demo = {"scene": "disc to the right", "frames": 3, "batch_size": 1, "take": 0}
    tiny = {"unet_name": TINY, "weight_dtype": "default"}
    out = {
        "demo": {"class_type": "MotionCacheDemoModel", "inputs": demo},
        "tiny": {"class_type": "UNETLoader", "inputs": tiny},
    }

    def stays(kind: str) -> bool:
        ours = kind.startswith("MotionCache") and kind not in LOADERS
        return ours or kind in KEPT

    def linked(source: str, slot: int) -> list[Any]:
        kind = kinds[source]
        if kind in (*LOADERS, DEMO) and slot == 0:
            return ["tiny", 0]
        if kind in PASSED:
            return linked(*prompt[source]["inputs"][PASSED[kind]])
        if stays(kind):
            return [source, slot]
        # what is left makes an empty video
        length = _length(prompt, source)
        empty = {"width": 64, "height": 64, "length": length, "batch_size": 1}
        out[source] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": empty}
        return [source, 0]

    for number, node in prompt.items():
        kind, inputs = node["class_type"], dict(node["inputs"])
        if not stays(kind):
            continue
        if kind in DECODERS:
            kind, inputs = "MotionCacheDemoDecode", {"samples": inputs["samples"], "scale": 1}
        for name, value in inputs.items():
            if kind in (*SAMPLERS, *GUIDERS) and name in PROMPTS:
                inputs[name] = ["demo", PROMPTS[name]]
            elif isinstance(value, list):
                inputs[name] = linked(*value)
        out[number] = {"class_type": kind, "inputs": inputs}
    return out


def _length(prompt: Prompt, number: str) -> int | None:
    """Frames of the video that a node makes, or one before it."""
    inputs = prompt[number]["inputs"]
    links = (value[0] for value in inputs.values() if isinstance(value, list))
    found = (_length(prompt, source) for source in links)
    return inputs.get("length") or next((length for length in found if length), None)


def check_reports(prompt: Prompt, shown: dict[str, Any], wanted: list[tuple[int, int]]) -> None:
    """Reports tell of their evaluations, some of them reused; every map and video is one file."""
    kinds = {number: prompt[number]["class_type"] for number in prompt}
    told = [shown[n]["text"][0] for n, kind in kinds.items() if kind == "MotionCacheReport"]
    assert len(told) == len(wanted)
    for (count, frames), words in zip(wanted, told, strict=True):
        assert re.search(rf" {count} (steps|evaluations) \(", words) and f", {frames}x" in words
        assert "nothing was reused" not in words
    for number, kind in kinds.items():
        if kind in ("MotionCacheReport", "MotionCacheMotionMap", "MotionCacheCompare"):
            assert len(shown[number]["images"]) == 1
        if kind == "MotionCacheCompare":
            # measured or estimated, and what one sees
            said = shown[number]["text"][0].splitlines()[0]
            assert re.match(r"\d+\.\d s with.*x (faster|slower).*, [a-z ]+$", said), said


class StandIn:
    """Runs a prompt in this process: our nodes, and what the host's own ones come down to."""

    def __init__(self) -> None:
        self.host = harness.Host()
        nodes = importlib.import_module("motioncache_pack.nodes").NODES
        self.ours = {node.define_schema().node_id: node.execute for node in nodes}
        self.others = {
            "UNETLoader": lambda it: self.host.sd.load_diffusion_model_state_dict(tiny_wan()),
            "ModelSamplingSD3": lambda it: it.model.clone(),
            "SkipLayerGuidanceDiTSimple": lambda it: it.model.clone(),
            "BasicScheduler": lambda it: self.host.sigmas(it.model, it.steps),
            "LTXVScheduler": lambda it: torch.linspace(1, 0, it.steps + 1),
            "KSamplerSelect": lambda it: self.host.samplers.sampler_object("euler"),
            "VOIDSampler": lambda it: self.host.samplers.sampler_object("euler"),
            "BasicGuider": lambda it: self.guider(it.model, it.conditioning, it.conditioning, 1.0),
            "DualCFGGuider": lambda it: self.guider(it.model, it.cond1, it.negative, it.cfg_conds),
            "EmptyHunyuanLatentVideo": lambda it: {
                "samples": torch.zeros(1, 16, (it.length + 3) // 4, it.height // 8, it.width // 8)
            },
            "KSampler": lambda it: self.sample(it, it.seed, True, denoise=it.denoise),
            "KSamplerAdvanced": lambda it: self.sample(
                it, it.noise_seed, it.add_noise == "enable", start_step=it.start_at_step,
                last_step=it.end_at_step,
                force_full_denoise=it.return_with_leftover_noise == "disable",
            ),
            "SamplerCustom": self.sample_custom,
            "PreviewAny": lambda it: it.source,
            "RandomNoise": small_magi.noise,
            "SamplerCustomAdvanced": small_magi.sample,
            "VAEDecode": small_magi.decode,
        }  # fmt: skip
        # outputs of the last run's nodes by their number
        self.made: dict[str, Any] = {}

    def run(self, prompt: Prompt) -> dict[str, Any]:
        """What our nodes show, by their number."""
        made = self.made = {}
        shown: dict[str, Any] = {}

        def result(number: str) -> Any:
            kind, inputs = prompt[number]["class_type"], dict(prompt[number]["inputs"])
            if number in made:
                return made[number]
            for name, value in inputs.items():
                if isinstance(value, list):
                    inputs[name] = result(value[0])[value[1]]
            if kind in self.ours:
                out = self.ours[kind](**inputs)
                made[number], shown[number] = out.result, out.ui
            else:
                made[number] = (self.others[kind](SimpleNamespace(**inputs)),)
            return made[number]

        for number in prompt:
            result(number)
        return {number: ui for number, ui in shown.items() if ui}

    def sample(self, it: Any, seed: int, noisy: bool, **options: Any) -> dict[str, torch.Tensor]:
        start = it.latent_image["samples"]
        noise = self.host.sample.prepare_noise(start, seed) * noisy
        samples = self.host.sample.sample(
            it.model, noise, it.steps, it.cfg, "euler", "simple", *_prompts(it), start,
            seed=seed, disable_pbar=True, disable_noise=not noisy, **options,
        )  # fmt: skip
        return {"samples": samples}

    def guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        both = _prompts(SimpleNamespace(model=model, positive=positive, negative=negative))
        return self.host.guider(model, *both, cfg)

    def sample_custom(self, it: Any) -> dict[str, torch.Tensor]:
        start = it.latent_image["samples"]
        noise = self.host.sample.prepare_noise(start, it.noise_seed)
        samples = self.host.sample.sample_custom(
            it.model, noise, it.cfg, it.sampler, it.sigmas, *_prompts(it), start,
            noise_mask=it.latent_image.get("noise_mask"), seed=it.noise_seed, disable_pbar=True,
        )  # fmt: skip
        return {"samples": samples}


def _prompts(it: Any) -> list[Any]:
    """Those of a sampler; the stand-in host would show a text-to-video model their first frame."""
    both = [it.positive, it.negative]
    if it.model.model.diffusion_model.patch_embedding.in_channels > 16:
        return both
    return [[[text, {}] for text, _ in prompt] for prompt in both]
