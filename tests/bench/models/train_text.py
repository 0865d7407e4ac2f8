"""Train the two models of the quality bench that draw from text alone.

    python tests/bench/models/train_text.py text --run runs/text [--cooldown N]

No frame is given and no track; two shapes and a panning camera (`text_scenes.py`); one noise level
a clip. Goes on from where it was, and ends, like `motioncache_core/demo/training/train.py`, which
has the options; `demo_wan.safetensors` of the run's folder is the result. The matrices are
multiplied in bfloat16. The first 4000 steps or so saw every size and ground, in longer clips.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# first of all, as it makes the pack importable
import common  # noqa: F401
from motioncache_pack.motioncache_core.demo import attention, codec, scenes
from motioncache_pack.motioncache_core.demo.training import train
from quality.text_clips import MODELS
from quality.text_scenes import draw

# most scenes in short clips: a clip's frames show the same shapes
LENGTHS = (3, 5, 7, 9)
SHARES = (0.4, 0.2, 0.15, 0.25)
# the host's for Wan; the other clips have levels that are not shifted
SHIFT = 8.0
UNSHIFTED = 0.35
EMPTY_PROMPT = 0.1


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """The network's own `rotate` to the bit, but its gradient takes half the time."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turn = torch.complex(table[..., 0, 0], table[..., 1, 0])
    return torch.view_as_real(pairs * turn).flatten(-2).type_as(x)


def multiplied(_: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **__: object) -> Tensor:
    """Attention of one head as two products: torch's own is half as fast on a processor."""
    if heads != 1:
        raise ValueError(f"the network has {heads} heads; these models have 1")
    weights = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5
    return weights.softmax(-1) @ v


class TextRun(train.Run):
    """A run on scenes that text alone describes."""

    in_dim = codec.CHANNELS

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        attention.rotate = rotate

    def error(self) -> tuple[Tensor, Tensor]:
        """Noise levels and mean squared velocity errors `(n, F)` of a fresh batch."""
        rng = self.rng
        frames = LENGTHS[int(torch.multinomial(torch.tensor(SHARES), 1, generator=rng))]
        n = max(1, self.args.frames // frames)
        drawn = [draw(frames, MODELS[self.args.model].camera, rng) for _ in range(n)]
        x0 = codec.encode(torch.stack([d.render(frames) for d in drawn]))
        told = torch.rand(n, generator=rng) >= EMPTY_PROMPT
        empty = scenes.text_states(None)
        text = [d.text() if t else empty for d, t in zip(drawn, told, strict=True)]
        u = torch.rand(n, generator=rng)
        shift = torch.where(torch.rand(n, generator=rng) < UNSHIFTED, 1.0, SHIFT)
        sigma = shift * u / (1 + (shift - 1) * u)
        noise = torch.randn(x0.shape, generator=rng)
        s = sigma[:, None, None, None, None]
        half: dict[str, Any] = {k: p.bfloat16() for k, p in self.model.named_parameters()}
        states = torch.stack(text)[..., : scenes.TEXT_AXES]
        given = ((1 - s) * x0 + s * noise).bfloat16(), 1000 * sigma[:, None], states.bfloat16()
        options = {"transformer_options": {"optimized_attention_override": multiplied}}
        v = functional_call(self.model, half, given, options).float()
        error = (v - (noise - x0)).square().mean(dim=(1, 3, 4))
        return sigma[:, None].expand(n, frames), error


def main() -> None:
    parser = train.parser()
    parser.description = (__doc__ or "").splitlines()[0]
    parser.add_argument("model", choices=MODELS)
    parser.set_defaults(frames=36)
    args = parser.parse_args()
    chosen = MODELS[args.model]
    args.dim, args.ffn_dim = chosen.dim, chosen.ffn_dim
    args.layers, args.seed = chosen.layers, chosen.seed
    train.start(args, TextRun)


if __name__ == "__main__":
    main()
