"""Training batches of the demo model: clips and their conditions, noise levels, attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import codec, conditions, scenes
from .half import multiplied

CHUNK = 3
SHIFT = 5.0
# clips whose noise levels are not shifted: a shift of 5 leaves one in twenty below sigma 0.2,
# where edges and the borders of patches are cleaned
UNSHIFTED = 0.35
MOST_SHAPES = 2


@dataclass(frozen=True)
class Batch:
    """Latents `(n, 16, F, 16, 16)`, conditions `(n, 20, F, 16, 16)`, text `(n, 4, TEXT_AXES)`."""

    latents: Tensor
    given: Tensor
    text: Tensor


def draw(n: int, frames: int, rng: torch.Generator) -> Batch:
    """Random clips. One in ten has neither text nor control video: the unconditional branch."""
    videos, text, takes = [], [], []
    for _ in range(n):
        scene = draw_scene(frames, rng)
        take = scenes.draw_take(scene, rng)
        videos.append(scenes.render(scene, take, frames))
        dropped = float(torch.rand((), generator=rng))
        keep = torch.rand(64, generator=rng) > (0.15 if dropped < 0.15 else 0.0)
        told = None if dropped > 0.9 else scene
        text.append(scenes.text_states(told, keep)[:, : scenes.TEXT_AXES])
        takes.append((told, take))
    latents = codec.encode(torch.stack(videos))
    given = []
    for x0, (told, take) in zip(latents, takes, strict=True):
        given.append(conditions.condition(x0[:, 0], frames))
        if told is not None:
            conditions.add_control(given[-1], told, take, shown_control(frames, rng))
    return Batch(latents, torch.stack(given), torch.stack(text))


def draw_scene(frames: int, rng: torch.Generator) -> scenes.Scene:
    """A random scene of at most two shapes."""
    while True:
        scene = scenes.sample_scene(frames, rng)
        if len(scene.shapes) <= MOST_SHAPES:
            return scene


def shown_control(frames: int, rng: torch.Generator) -> Tensor:
    """Bool `(F,)`: the control video in all frames, or now and then in some."""
    if float(torch.rand((), generator=rng)) < 0.9:
        return torch.ones(frames, dtype=torch.bool)
    return torch.rand(frames, generator=rng) < 0.6


def noise_levels(n: int, frames: int, rng: torch.Generator) -> Tensor:
    """Sigma `(n, F)`, shifted by 5 in most clips.

    Half of the clips have one level. The others: chunks one behind the other as in diffusion
    forcing (a quarter), one random level per chunk, or a clean beginning and one level.
    """
    chunks = -(-frames // CHUNK)
    place = torch.arange(chunks).expand(n, chunks)
    same = torch.rand(n, 1, generator=rng)
    delay = 0.05 + 0.5 * torch.rand(n, 1, generator=rng)
    # the clip's position in the schedule, so that every chunk is at work in its turn
    behind = (1 - same * (1 + delay * (chunks - 1)) + delay * place).clamp(0, 1)
    free = torch.rand(n, chunks, generator=rng)
    given = torch.randint(chunks, (n, 1), generator=rng)
    prefix = torch.where(place < given, 0.0, same)
    kind = torch.rand(n, 1, generator=rng)
    u = torch.where(kind < 0.5, same.expand(n, chunks), behind)
    u = torch.where(kind > 0.75, free, u)
    u = torch.where(kind > 0.88, prefix, u)
    shift = torch.where(torch.rand(n, 1, generator=rng) < UNSHIFTED, 1.0, SHIFT)
    return (shift * u / (1 + (shift - 1) * u)).repeat_interleave(CHUNK, dim=1)[:, :frames]


def block_causal_options(frames: int, tokens_per_frame: int) -> dict[str, object]:
    """Hooks that make self-attention block-causal over chunks of frames."""
    tokens, step = frames * tokens_per_frame, CHUNK * tokens_per_frame

    def attention(func: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **_: object) -> Tensor:
        if k.shape[1] != tokens:
            return multiplied(func, q, k, v, heads)
        # chunk by chunk: half the work of a mask
        parts = [
            multiplied(func, q[:, i : i + step], k[:, : i + step], v[:, : i + step], heads)
            for i in range(0, tokens, step)
        ]
        return torch.cat(parts, dim=1)

    return {"optimized_attention_override": attention}


BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0)


class BinnedLoss:
    """Mean squared velocity error by noise level since the last `line`."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros(len(BINS) - 1), torch.zeros(len(BINS) - 1)

    def add(self, sigma: Tensor, error: Tensor) -> None:
        """Both `(n, F)`; frames at sigma 0 are not counted."""
        keep = sigma > 0
        place = torch.bucketize(sigma[keep], torch.tensor(BINS[1:-1]))
        one_hot = F.one_hot(place, len(BINS) - 1).float()
        self.total += (one_hot * error[keep][:, None]).sum(0)
        self.count += one_hot.sum(0)

    def line(self) -> str:
        """One line of means; starts anew."""
        means = (self.total / self.count.clamp_min(1)).tolist()
        self.__init__()  # type: ignore[misc]
        bins = zip(BINS[1:], means, strict=True)
        return " ".join(f"<{top:g}:{mean:.4f}" for top, mean in bins)
