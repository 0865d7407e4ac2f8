"""Records how fast a model's answer changes over a run, without a cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..common.errors import UnsupportedModelError
from ..common.host_transfer import joined, read
from ..models.adapter import Adapter
from ..models.registry import find_adapter
from ..policy.model_profile import MIN_LEVELS, Changes
from ..sampling.model_call import BranchKey, ModelCall
from .block_probe import BlockProbe
from .devices import THREAD_DEVICE
from .limits import decline_reason

_EPS = 1e-8


@dataclass(slots=True)
class _Seen:
    """One evaluation of one branch: what entered the first block, the timestep modulation, and
    what the blocks added."""

    tokens: Tensor
    modulation: Tensor | None
    residual: Tensor


@dataclass(slots=True)
class _Branch:
    """Noise level and changes of every evaluation; the first has no changes."""

    last: _Seen | None = None
    levels: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)


class Recorder:
    """Stands in for a session: runs every call in full and notes what changed since the last one.

    Make one per run, call `close` in a `finally`.
    """

    def __init__(self) -> None:
        self._branches: dict[BranchKey, _Branch] = {}
        self._reached = False

    @property
    def reached(self) -> bool:
        """Whether the network was called through this recorder."""
        return self._reached

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run the network; returns what it returns, bit for bit.

        Raises:
            UnsupportedModelError: the network or this kind of run cannot be calibrated.
        """
        adapter, declined = find_adapter(call.network)
        adapter = adapter.of_call(call.network, call.options, call.arguments) or adapter
        reason: str | None = declined or decline_reason(adapter, call)
        if call.forcing is not None:
            reason = "a diffusion-forcing sampler has a noise level for every chunk"
        elif call.window is not None:
            reason = "context windows cut the clip"
        elif THREAD_DEVICE in call.options:
            reason = "its branches are spread over several devices"
        if reason:
            raise UnsupportedModelError(
                f"MotionCache Calibrate cannot measure this run: {reason}. Use an ordinary "
                "sampler such as KSampler, or bypass MotionCache Calibrate"
            )
        if call.whole:
            # no step of the sampler
            return call.run(dict(call.options))
        facts = adapter.facts(call.network)
        layout = adapter.layout(facts, adapter.video(call.x))
        probe = BlockProbe(adapter, facts, call.network, layout)
        options = probe.options(call.options)
        with probe.running():
            out = call.run(options)
        self._reached = True
        if probe.residual is not None:
            self._note(call, adapter, probe)
        return out

    def changes(self) -> Changes | None:
        """What was recorded; None where it was too little. Waits for the device."""
        if not any(len(b.levels) >= MIN_LEVELS for b in self._branches.values()):
            return None
        found: dict[tuple[float, float], list[list[float]]] = {}
        for branch in self._branches.values():
            if not branch.changes:
                continue
            levels = read(joined(branch.levels))
            flat = read(joined(branch.changes))
            rows = [flat[i : i + 3] for i in range(0, len(flat), 3)]
            for (before, now), row in zip(pairwise(levels), rows, strict=True):
                # second-order samplers evaluate a noise level twice: that is no way travelled
                if now < before:
                    found.setdefault((before, now), []).append(row)
        return Changes.of(found)

    def close(self) -> None:
        """Drop every tensor."""
        self._branches.clear()

    def _note(self, call: ModelCall, adapter: Adapter, probe: BlockProbe) -> None:
        tokens, modulation, residual = probe.tokens, probe.modulation, probe.residual
        if tokens is None or residual is None:
            return
        level = call.levels(adapter.timestep_scale).amax()
        for i, key in enumerate(call.branches):
            rows = slice(i * call.samples, (i + 1) * call.samples)
            branch = self._branches.setdefault(key, _Branch())
            # a view would keep the whole batch
            now = _Seen(
                tokens[rows].clone(),
                None if modulation is None else modulation(rows.start).float().clone(),
                residual[rows].clone(),
            )
            branch.levels.append(level)
            if branch.last is not None:
                branch.changes.append(_changes(branch.last, now))
            branch.last = now


def _changes(before: _Seen, now: _Seen) -> Tensor:
    """Relative L1 of tokens, modulation and residual, `(3,)`."""
    pairs = (
        (before.tokens, now.tokens),
        (before.modulation, now.modulation),
        (before.residual, now.residual),
    )
    if before.tokens.shape != now.tokens.shape:
        raise UnsupportedModelError(
            f"MotionCache Calibrate cannot measure this run: the model's input went from "
            f"{before.tokens.shape[0]} clip(s) to {now.tokens.shape[0]}. Use an ordinary sampler "
            "such as KSampler, or bypass MotionCache Calibrate"
        )
    return torch.stack([_relative(a, b) for a, b in pairs])


def _relative(before: Tensor | None, now: Tensor | None) -> Tensor:
    if before is None or now is None:
        return torch.zeros(())
    change = (now.float() - before.float()).abs().mean()
    return change / (before.float().abs().mean() + _EPS)
