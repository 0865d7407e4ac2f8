"""Train the demo model on generated scenes (see `scenes.py`).

    python -m motioncache_core.demo.train --steps 5400 --out demo_wan.safetensors

Flow matching on velocity. Two thirds of the clips carry one noise level, the others one level per
chunk of three latent frames; a fifth of all batches is trained under a block-causal mask, so the
model also serves diffusion forcing. Seeded, resumable (`--state`), learning rate constant and
then linear to zero over the last fifth.

The shipped file took 5400 steps, under two hours on two cores that had other work as well. Clip
lengths, noise levels and scenes were adjusted on the way (at steps 1000, 1500 and 2500), so a new
run gives a similar file, not the same.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import codec, scenes
from .attention import scaled_dot_product
from .wan import DemoWan

log = logging.getLogger(__name__)
CHUNK = 3
FRAMES = 9


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for matrices (Jordan et al. 2024), in fp32."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(buffer, group["momentum"])
                wide = g.T if g.shape[0] > g.shape[1] else g
                x = wide / (wide.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if g.shape[0] > g.shape[1] else x
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * 0.01).add_(x, alpha=-group["lr"] * scale)


def split_parameters(model: DemoWan) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices inside the blocks for Muon; everything else for AdamW."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if name.startswith("blocks.") and p.ndim == 2 else rest).append(p)
    return matrices, rest


def batch(n: int, frames: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents `(n, 16, F, 16, 16)` and text states `(n, 4, 4096)` of random scenes."""
    videos, states = [], []
    for _ in range(n):
        scene = scenes.sample_scene(frames, rng)
        videos.append(scenes.render(scene, frames, rng))
        dropped = float(torch.rand((), generator=rng))
        keep = torch.rand(64, generator=rng) > (0.15 if dropped < 0.15 else 0.0)
        states.append(scenes.text_states(None if dropped > 0.9 else scene, keep))
    return codec.encode(torch.stack(videos)), torch.stack(states)


def noise_levels(n: int, frames: int, rng: torch.Generator) -> Tensor:
    """Sigma `(n, F)` shifted by 5, half uniform, half logit-normal; a third have one per chunk.

    Where a shape will be is decided above sigma 0.95, so that range needs its share.
    """
    chunks = -(-frames // CHUNK)
    middle = torch.sigmoid(1.1 * torch.randn(n, chunks, generator=rng))
    u = torch.where(
        torch.rand(n, 1, generator=rng) < 0.5, middle, torch.rand(n, chunks, generator=rng)
    )
    same = torch.rand(n, 1, generator=rng) < 0.65
    u = torch.where(same, u[:, :1], u)
    sigma = 5 * u / (1 + 4 * u)
    return sigma.repeat_interleave(CHUNK, dim=1)[:, :frames]


def block_causal_options(frames: int, tokens_per_frame: int) -> dict[str, object]:
    """Hooks that make self-attention block-causal over chunks of frames."""
    chunk = (torch.arange(frames * tokens_per_frame) // tokens_per_frame) // CHUNK
    mask = chunk[:, None] >= chunk[None, :]

    def attention(func: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **_: object) -> Tensor:
        is_self = k.shape[1] == mask.shape[0]
        return scaled_dot_product(q, k, v, heads, mask=mask if is_self else None)

    return {"optimized_attention_override": attention}


def learning_rate(step: int, steps: int) -> float:
    """Factor: 100 steps up, constant, linear to zero over the last fifth."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (0.2 * steps)))


def clip_length(progress: float, u: float) -> int:
    """Frames of this step's clips: short ones first (more scenes a second), long ones last."""
    mix = (0.85, 0.1) if progress < 0.4 else (0.3, 0.5) if progress < 0.6 else (0.1, 0.1)
    return 3 if u < mix[0] else 6 if u < sum(mix) else FRAMES


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    model = DemoWan(dim=args.dim, ffn_dim=args.ffn_dim, num_layers=args.layers)
    nn.init.zeros_(model.head.head.weight)
    nn.init.zeros_(model.head.head.bias)
    ema = {k: v.clone() for k, v in model.state_dict().items()}
    matrices, rest = split_parameters(model)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=args.lr),
        torch.optim.AdamW(rest, lr=0.1 * args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    base = [o.param_groups[0]["lr"] for o in optimizers]
    first = 0
    if args.state and Path(args.state).exists():
        saved = torch.load(args.state, weights_only=True)
        model.load_state_dict(saved["model"])
        for o, s in zip(optimizers, saved["optimizers"], strict=True):
            o.load_state_dict(s)
        ema, first = saved["ema"], saved["step"]
        rng.set_state(saved["rng"])
    mean, started = 0.0, time.monotonic()
    for step in range(first, args.steps):
        factor = learning_rate(step, args.steps)
        for o, lr in zip(optimizers, base, strict=True):
            o.param_groups[0]["lr"] = lr * factor
        frames = clip_length(step / args.steps, float(torch.rand((), generator=rng)))
        x0, states = batch(max(1, args.batch * 6 // (frames + 3)), frames, rng)
        sigma = noise_levels(len(x0), frames, rng)
        noise = torch.randn(x0.shape, generator=rng)
        s = sigma[:, None, :, None, None]
        causal = float(torch.rand((), generator=rng)) < 0.2
        options = block_causal_options(frames, x0.shape[3] * x0.shape[4] // 4) if causal else {}
        v = model((1 - s) * x0 + s * noise, 1000 * sigma, states, transformer_options=options)
        loss = (v - (noise - x0)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        decay = min(args.ema, (step + 1) / (step + 10))
        for k, value in model.state_dict().items():
            ema[k].lerp_(value, 1 - decay)
        mean = loss.item() if step == first else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            rate = (time.monotonic() - started) / (step + 1 - first)
            log.info("step %d loss %.4f %.2f s/step", step + 1, mean, rate)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            save_file({k: t.to(torch.float16).contiguous() for k, t in ema.items()}, args.out)
            if args.state:
                state = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "ema": ema,
                    "step": step + 1,
                    "rng": rng.get_state(),
                }
                torch.save(state, args.state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=5400)
    parser.add_argument("--batch", type=int, default=16, help="clips of 3 frames a step")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--ffn-dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="demo_wan.safetensors")
    parser.add_argument("--state", default="", help="file to resume from and save to")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    # decayed momenta turn denormal, which is many times slower on some processors
    torch.set_flush_denormal(True)
    train(args)


if __name__ == "__main__":
    main()
