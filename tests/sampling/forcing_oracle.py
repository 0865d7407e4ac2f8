"""diffusers' SkyReels-V2 pipeline and our sampler over the same random weights."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.demo.forcing import cached_forcing_sample
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.demo.test_wan_oracle import diffusers_name
from torch import Tensor

DIM, HEADS, LAYERS, FFN_DIM, FREQ_DIM, TEXT_DIM, TEXT_TOKENS = 64, 2, 2, 96, 64, 24, 5
CHANNELS, HEIGHT, WIDTH = 16, 4, 6
# pixels of a latent row or column, and frames that follow the first for each latent frame
SPATIAL, TEMPORAL = 8, 4
MODULE = "diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing"


def import_pipeline() -> ModuleType:
    """The pipeline's module. It needs transformers for prompts only, so it is loaded as the tests'
    requirements have it, without transformers and torchvision; empty classes take the place of
    what it imports all the same."""
    transformers = ModuleType("transformers")
    for name in ("AutoTokenizer", "T5EncoderModel", "UMT5EncoderModel"):
        setattr(transformers, name, type(name, (), {}))
    flags = importlib.import_module("diffusers.utils.import_utils")
    with pytest.MonkeyPatch.context() as patch:
        for package in ("transformers", "torchvision"):
            patch.setattr(flags, f"_{package}_available", False)
        loaders = importlib.import_module("diffusers.loaders")
        # not setattr: reading the old value would import what is to be replaced
        patch.setitem(vars(loaders), "SkyReelsV2LoraLoaderMixin", type("NoLoRA", (), {}))
        importlib.import_module("diffusers.pipelines.pipeline_utils")
        patch.setitem(sys.modules, "transformers", transformers)
        return importlib.import_module(MODULE)


# without diffusers the import from test_demo_wan_oracle has skipped the module
skyreels = import_pipeline()


class KeepsAttention(skyreels.SkyReelsV2Transformer3DModel):
    """Chunks of several frames without a mask: the pipeline sets both by one argument, which
    sets only the schedule here."""

    def _set_ar_attention(self, causal_block_size: int) -> None:
        pass


@dataclass(frozen=True)
class Trajectory:
    """One run.

    Attributes:
        latents: the result `(B, C, F, H, W)`.
        steps: latents of the window after each iteration.
        timesteps: what the model was told in each iteration, `(frames,)`.
    """

    latents: Tensor
    steps: list[Tensor]
    timesteps: list[Tensor]


class Networks:
    """The same weights in both implementations; norms and modulation are random too."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.ours = DemoWan(
            dim=DIM, ffn_dim=FFN_DIM, num_layers=LAYERS, num_heads=HEADS,
            text_dim=TEXT_DIM, freq_dim=FREQ_DIM,
        ).eval()  # fmt: skip
        for parameter in self.ours.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn_like(parameter) * scale)
        self.positive, self.negative = torch.randn(2, 2, TEXT_TOKENS, TEXT_DIM)
        self.told: list[Tensor] = []
        self.ours.register_forward_pre_hook(self._whole_timesteps)

    def _whole_timesteps(self, _: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # the pipeline hands over whole timesteps and solves with exact sigmas
        x, t, *rest = args
        self.told.append(t.floor()[0])
        return (x, t.floor(), *rest)

    def theirs(self, masked: bool) -> torch.nn.Module:
        """A transformer of its own: a run leaves its chunk size in the config."""
        kind = skyreels.SkyReelsV2Transformer3DModel if masked else KeepsAttention
        theirs = kind(
            num_attention_heads=HEADS, attention_head_dim=DIM // HEADS, in_channels=CHANNELS,
            out_channels=CHANNELS, text_dim=TEXT_DIM, ffn_dim=FFN_DIM, freq_dim=FREQ_DIM,
            num_layers=LAYERS, rope_max_seq_len=64,
        )  # fmt: skip
        weights = self.ours.state_dict()
        theirs.load_state_dict({diffusers_name(k): v for k, v in weights.items()})
        return theirs.eval()


class LatentSize:
    """Stands in for the VAE, of which the pipeline reads only which of the halvings in space halve
    time as well."""

    temperal_downsample = (False, True, True)


class OwnSample(skyreels.UniPCMultistepScheduler):
    """Remembers a sample of its own. The pipeline hands each scheduler a view of its latents and
    then writes the next sample into them; the first one is remembered as it came, so the first
    correction starts from the wrong sample."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        return super().step(model_output, timestep, sample.clone(), **options)


def scheduler(shift: float, kind: type = OwnSample) -> Any:
    """The solver as the pipeline's documentation configures it."""
    return kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


@dataclass(frozen=True)
class Case:
    """One clip and how it is sampled; frames are latent frames.

    Attributes:
        window: frames of each of several windows that share `overlap` frames; 0 is one window.
        noised: pipeline's `addnoise_condition`, in thousandths of sigma.
    """

    frames: int
    steps: int
    chunk: int
    delay: int
    cfg: float = 1.0
    window: int = 0
    overlap: int = 0
    noised: int = 0
    batch: int = 1
    shift: float = 8.0
    seed: int = 0

    def options(self, attention: str) -> ForcingOptions:
        return ForcingOptions(
            self.chunk, self.delay, "unipc", attention, self.noised / 1000,
            self.window, self.overlap,
        )  # fmt: skip

    def noise(self) -> Tensor:
        """What the pipeline draws: a window at a time, the frames that it is given too."""
        generator = torch.Generator().manual_seed(self.seed)
        clip = torch.empty(self.batch, CHANNELS, 0, HEIGHT, WIDTH)
        while clip.shape[2] < self.frames:
            given = self.overlap if clip.shape[2] else 0
            left = self.frames - clip.shape[2] + given
            count = min(left, self.window or left)
            shape = (self.batch, CHANNELS, count, HEIGHT, WIDTH)
            drawn = torch.randn(shape, generator=generator)
            clip = torch.cat((clip, drawn[:, :, given:]), dim=2)
        return clip


def pixel_frames(latent_frames: int) -> int:
    return TEMPORAL * (latent_frames - 1) + 1


def run_theirs(
    networks: Networks, case: Case, masked: bool, solver: type = OwnSample
) -> Trajectory:
    """diffusers' pipeline. `masked` is its block-causal attention."""
    transformer = networks.theirs(masked)
    steps: list[Tensor] = []
    timesteps: list[Tensor] = []

    def observe(_: object, args: object, kwargs: dict[str, Any]) -> None:
        timestep = kwargs["timestep"].float()
        assert torch.equal(timestep, timestep[:1].expand_as(timestep))
        timesteps.append(timestep[0])

    def keep(_: object, i: int, t: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(tensors["latents"].clone())
        return tensors

    transformer.register_forward_pre_hook(observe, with_kwargs=True)
    logger = logging.getLogger(MODULE)
    level = logger.level
    logger.setLevel(logging.ERROR)
    pipeline = skyreels.SkyReelsV2DiffusionForcingPipeline(
        None, None, transformer, LatentSize(), scheduler(case.shift, solver)
    )
    pipeline.set_progress_bar_config(disable=True)
    try:
        latents = pipeline(
            None,
            height=HEIGHT * SPATIAL,
            width=WIDTH * SPATIAL,
            num_frames=pixel_frames(case.frames),
            num_inference_steps=case.steps,
            guidance_scale=case.cfg,
            generator=torch.Generator().manual_seed(case.seed),
            prompt_embeds=networks.positive[: case.batch],
            negative_prompt_embeds=networks.negative[: case.batch],
            output_type="latent",
            callback_on_step_end=keep,
            overlap_history=pixel_frames(case.overlap) if case.overlap else None,
            addnoise_condition=case.noised,
            base_num_frames=pixel_frames(case.window or case.frames),
            ar_step=case.delay,
            causal_block_size=case.chunk,
        ).frames
    finally:
        logger.setLevel(level)
    branches = 2 if case.cfg > 1 else 1
    return Trajectory(latents, steps, timesteps[::branches])


def run_ours(
    networks: Networks,
    case: Case,
    attention: str,
    *,
    noise: Tensor | None = None,
    start: Tensor | None = None,
    prefix: int = 0,
) -> Trajectory:
    """Our sampler, with nothing reused."""
    solver = scheduler(case.shift)
    solver.set_timesteps(case.steps)
    sigmas = solver.sigmas.tolist()
    options = case.options(attention)
    noise = case.noise() if noise is None else noise
    schedule = forcing_schedule(noise.shape[2], case.steps, options, prefix)
    steps: list[Tensor] = []

    def keep(done: int, total: int, predicted: Tensor, x: Tensor) -> None:
        it = schedule[done - 1]
        steps.append(x[:, :, it.start : it.start + it.frames].clone())

    networks.told.clear()
    latents, _ = cached_forcing_sample(
        networks.ours,
        networks.positive[: case.batch],
        networks.negative[: case.batch],
        # the pipeline starts from the noise itself, though its first sigma is just below 1
        noise / sigmas[0],
        sigmas,
        options,
        MotionCacheSettings(reuse_threshold=0),
        ops,
        cfg=case.cfg,
        start=start,
        prefix=prefix,
        seed=case.seed + 1,
        progress=keep,
    )
    return Trajectory(latents, steps, list(networks.told))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def trajectory_error(ours: Trajectory, theirs: Trajectory) -> float:
    """The largest relative error of any iteration's latents and of the result."""
    assert len(ours.steps) == len(theirs.steps)
    pairs = zip([*ours.steps, ours.latents], [*theirs.steps, theirs.latents], strict=True)
    return max(relative_error(a, b) for a, b in pairs)
