"""Measure how fast the demo model's residual changes along the noise schedule.

    python -m motioncache_core.demo.training.calibrate

Writes a `.profile.json` beside the weights: the cumulative relative L1 change of the block
stack's residual over uncached runs of several scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ...engine.block_probe import BlockProbe
from ...models.wan import WAN
from ...policy.distance import CalibratedProfile
from ...sampling.model_call import ModelCall
from .. import checkpoint, clips, scenes
from ..sampler import SampleOptions, sample
from ..wan import DemoWan

_FRAMES = 9


class ResidualRecorder:
    """Stands in for a session: runs every call in full and notes how its residual changed."""

    def __init__(self, model: DemoWan) -> None:
        self._facts = WAN.facts(model)
        self._previous: Tensor | None = None
        self.changes: list[float] = []

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run one model call."""
        probe = BlockProbe(WAN, self._facts, call.network)
        out = call.run(probe.options(call.options))
        residual, before = probe.residual, self._previous
        if residual is not None and before is not None:
            change = (residual - before).abs().mean() / before.abs().mean()
            self.changes.append(float(change))
        self._previous = residual
        return out


def measure(model: DemoWan, steps: int, runs: int, seed: int) -> CalibratedProfile:
    """Average over `runs` random scenes; `steps` sets how fine the table is."""
    rng = torch.Generator().manual_seed(seed)
    options = SampleOptions(steps=steps, shift=checkpoint.SHIFT)
    sigmas = options.sigmas()
    total = [0.0] * (steps - 1)
    for i in range(runs):
        scene = scenes.sample_scene(_FRAMES, rng)
        clip = clips.clip(scene, _FRAMES, take=seed + i)
        recorder = ResidualRecorder(model)
        sample(
            model, *clip.text, clip.noise(seed + i), options, session=recorder,
            conditions=clip.conditions,
        )  # fmt: skip
        total = [a + b / runs for a, b in zip(total, recorder.changes, strict=True)]
    # change i happened between sigma i and i + 1; the table ascends from the clean end
    travelled, table = 0.0, {0.0: 0.0, sigmas[-2]: 0.0}
    for sigma, change in zip(reversed(sigmas[:-2]), reversed(total), strict=True):
        travelled += change
        table[sigma] = travelled
    return CalibratedProfile(
        "MotionCache demo",
        tuple(round(s, 6) for s in table),
        tuple(round(t, 6) for t in table.values()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate the demo model.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=checkpoint.WEIGHTS)
    args = parser.parse_args()
    model = checkpoint.load(args.weights)
    profile = args.weights.with_suffix(".profile.json")
    measure(model, args.steps, args.runs, args.seed).dump(profile)


if __name__ == "__main__":
    main()
