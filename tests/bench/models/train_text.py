"""Train a model of the quality bench that draws from text alone.

    python tests/bench/models/train_text.py text --run runs/text [--cooldown N]

No frame is given and no track; two shapes and a panning camera (`text_scenes.py`); one noise level
a clip. Goes on from where it was, and ends, like `motioncache_core/demo/training/train.py`, which
has the options; `demo_wan.safetensors` of the run's folder is the result. The matrices are
multiplied in bfloat16. The first 4000 steps or so saw every size and ground, in longer clips.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# first of all, as it makes the pack importable
import common  # noqa: F401
from motioncache_pack.motioncache_core.demo import codec, scenes
from motioncache_pack.motioncache_core.demo.training import half, train
from quality.text_clips import MODELS
from quality.text_scenes import draw

# most scenes in short clips: a clip's frames show the same shapes
LENGTHS = (3, 5, 7, 9)
SHARES = (0.4, 0.2, 0.15, 0.25)
# the host's for Wan; the other clips have levels that are not shifted
SHIFT = 8.0
UNSHIFTED = 0.35
EMPTY_PROMPT = 0.1


class TextRun(train.Run):
    """A run on scenes that text alone describes."""

    in_dim = codec.CHANNELS

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
        states = torch.stack(text)[..., : scenes.TEXT_AXES]
        v = half.velocity(self.model, (1 - s) * x0 + s * noise, 1000 * sigma[:, None], states)
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
