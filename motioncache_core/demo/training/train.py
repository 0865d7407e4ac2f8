"""Train the demo model on generated scenes (see `scenes.py`, `conditions.py`, `batches.py`).

    python -m motioncache_core.demo.training.train --run runs/demo

Flow matching on velocity. Runs until it is stopped, and continues from `state.pt` of its folder
when started again; `--steps` ends it. The learning rate is constant: `--cooldown N` takes the
state as it is, anneals to zero over N more steps and writes `demo_wan.safetensors` (averaged
weights, fp16), leaving the state to be trained on. `loss.txt` has the loss by noise level.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import codec, conditions, scenes
from ..wan import DemoWan
from . import batches, half
from .muon import Muon, split_parameters

log = logging.getLogger(__name__)
# frames of a clip, and how often each length is drawn
LENGTHS = (3, 6, 9, 12)
SHARES = (0.2, 0.25, 0.3, 0.25)
# one batch in so many is trained under block-causal attention
CAUSAL = 0.4
# what each block adds to its tokens, and the biases at both ends
_ZERO = (
    "o.weight", "o.bias", "ffn.2.weight", "ffn.2.bias", "patch_embedding.bias", "head.head.bias",
)  # fmt: skip


@torch.no_grad()
def pass_through(model: DemoWan) -> None:
    """Start with an output near the noisy input, most of a velocity at high noise.

    The patch embedding gets orthogonal columns, apart for the noise and the given latents if there
    are any, the head the transpose of the noise's, and blocks add nothing at first: a small network
    need not learn to carry 64 numbers of noise through every token.
    """
    embedding, head = model.patch_embedding, model.head.head
    size = (model.out_dim, *model.patch_size)
    side = math.prod(size)
    # tokens of about unit deviation: the given latents have half the noise's variance
    gain = math.sqrt(model.dim / (1.5 * side))
    columns = nn.init.orthogonal_(torch.empty(model.dim, 2 * side)).split(side, dim=1)
    noise, given = (c.unflatten(1, size) for c in columns)
    embedding.weight[:, : model.out_dim] = noise * gain
    if model.in_dim > model.out_dim:
        embedding.weight[:, -model.out_dim :] = given * gain
    head.weight.copy_(noise.permute(2, 3, 4, 1, 0).reshape(side, model.dim) / gain)
    for name, p in model.named_parameters():
        if name.endswith(_ZERO):
            nn.init.zeros_(p)


class Run:
    """Model, optimizers, averages and random state: all that a checkpoint holds."""

    in_dim = codec.CHANNELS + conditions.CHANNELS

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.rng = torch.Generator().manual_seed(args.seed)
        self.model = DemoWan(
            dim=args.dim,
            ffn_dim=args.ffn_dim,
            num_layers=args.layers,
            in_dim=self.in_dim,
            text_dim=scenes.TEXT_AXES,
        ).to(args.device)
        pass_through(self.model)
        if args.start:
            self.model.load_state_dict(load_file(args.start))
        self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
        matrices, rest = split_parameters(self.model)
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=args.lr),
            torch.optim.AdamW(rest, lr=0.1 * args.lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step = 0
        self.seconds = 0.0
        self.state = Path(args.run) / "state.pt"
        if self.state.exists():
            self.restore(torch.load(self.state, weights_only=True, map_location=args.device))

    def restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        for o, s in zip(self.optimizers, saved["optimizers"], strict=True):
            o.load_state_dict(s)
        self.ema, self.step, self.seconds = saved["ema"], saved["step"], saved["seconds"]
        self.rng.set_state(saved["rng"].cpu())

    def save(self) -> None:
        """Replaces the state in one go, so that a kill leaves the old one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
            "rng": self.rng.get_state(),
        }
        torch.save(state, self.state.with_suffix(".tmp"))
        os.replace(self.state.with_suffix(".tmp"), self.state)
        self.export(self.state.with_name("ema.safetensors"), torch.float32)

    def export(self, path: Path, dtype: torch.dtype) -> None:
        save_file({k: t.to("cpu", dtype).contiguous() for k, t in self.ema.items()}, path)

    def train_step(self, rate: float, losses: batches.BinnedLoss) -> None:
        """One optimizer step at `rate` times the base learning rates."""
        for o, lr in zip(self.optimizers, self.rates, strict=True):
            o.param_groups[0]["lr"] = lr * rate
        sigma, error = self.error()
        counted = sigma > 0
        (error * counted).sum().div(counted.sum().clamp_min(1)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for o in self.optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.args.ema, (self.step + 1) / (self.step + 10))
        for k, value in self.model.state_dict().items():
            self.ema[k].lerp_(value, 1 - decay)
        losses.add(sigma.cpu(), error.detach().cpu())

    def error(self) -> tuple[Tensor, Tensor]:
        """Noise levels and mean squared velocity errors `(n, F)` of a fresh batch."""
        rng, device = self.rng, self.args.device
        frames = LENGTHS[int(torch.multinomial(torch.tensor(SHARES), 1, generator=rng))]
        given = batches.draw(max(1, self.args.frames // frames), frames, rng)
        x0 = given.latents
        sigma = batches.noise_levels(len(x0), frames, rng)
        noise = torch.randn(x0.shape, generator=rng)
        s = sigma[:, None, :, None, None]
        x = torch.cat(((1 - s) * x0 + s * noise, given.given), dim=1).to(device)
        options: dict[str, Any] = {}
        if float(torch.rand((), generator=rng)) < CAUSAL:
            options = batches.block_causal_options(frames, x0.shape[3] * x0.shape[4] // 4)
        text = given.text.to(device)
        v = half.velocity(self.model, x, 1000 * sigma.to(device), text, options)
        error = (v - (noise - x0).to(device)).square().mean(dim=(1, 3, 4))
        return sigma.to(device), error


def train(args: argparse.Namespace, kind: type[Run] = Run) -> None:
    Path(args.run).mkdir(parents=True, exist_ok=True)
    run = kind(args)
    losses = batches.BinnedLoss()
    first = run.step
    last = first + args.cooldown if args.cooldown else args.steps or 1 << 60
    saved, started = time.monotonic(), time.process_time()
    before = run.seconds
    while run.step < last:
        rate = (last - run.step) / args.cooldown if args.cooldown else min(1, (run.step + 1) / 100)
        run.train_step(rate, losses)
        now = time.monotonic()
        # the processor's seconds: other work on the machine does not count
        run.seconds = before + time.process_time() - started
        if run.step % 50 == 0:
            pace = (run.seconds - before) / (run.step - first)
            line = f"{run.step} {run.seconds:.0f}s {pace:.2f}s/step {losses.line()}"
            log.info("%s", line)
            with (Path(args.run) / "loss.txt").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        if now - saved > args.save_every or run.step == last:
            if args.cooldown:
                run.export(Path(args.run) / "cooldown.safetensors", torch.float16)
            else:
                run.save()
            saved = now
    if args.cooldown:
        run.export(Path(args.run) / "demo_wan.safetensors", torch.float16)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", default="out/train", help="folder of state, weights and loss")
    parser.add_argument("--start", type=Path, help="weights to begin with, of the same sizes")
    parser.add_argument("--steps", type=int, default=0, help="stop here; 0 goes on until stopped")
    parser.add_argument("--cooldown", type=int, default=0, help="steps to anneal over, then stop")
    parser.add_argument("--frames", type=int, default=36, help="latent frames a step")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--ffn-dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=float, default=240.0, help="seconds between states")
    return parser


def start(args: argparse.Namespace, kind: type[Run] = Run) -> None:
    """Train a `kind` in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    # decayed momenta turn denormal, which is many times slower on some processors
    torch.set_flush_denormal(True)
    train(args, kind)


if __name__ == "__main__":
    start(parser().parse_args())
