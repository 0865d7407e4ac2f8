"""Records how fast a model's answer changes over a run, without a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..common.errors import UnsupportedModelError
from ..common.host_transfer import joined, read
from ..models.adapter import Adapter
from ..models.registry import find_adapter
from ..policy.model_profile import MIN_LEVELS, Changes
from ..sampling.model_call import BranchKey, ModelCall
from .block_hooks import modulation_row
from .devices import THREAD_DEVICE
from .session import decline_reason

# a thin sample of rows is enough for a mean and keeps the copies small
_ROWS = 4096
_EPS = 1e-8


@dataclass(slots=True)
class _Seen:
    """One evaluation of one branch: what entered the first block, the timestep modulation, and
    what the blocks added."""

    tokens: Tensor
    modulation: Tensor
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
        facts = adapter.facts(call.network)
        probe = _Probe(adapter.block_type, facts.blocks - 1)
        out = call.run(probe.options(call.options))
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

    def _note(self, call: ModelCall, adapter: Adapter, probe: _Probe) -> None:
        tokens, vec, residual = probe.tokens, probe.modulation, probe.residual
        if tokens is None or vec is None or residual is None:
            return
        levels = call.timestep.float() / adapter.timestep_scale
        for i, key in enumerate(call.branches):
            rows = slice(i * call.samples, (i + 1) * call.samples)
            branch = self._branches.setdefault(key, _Branch())
            # a view would keep the whole batch
            now = _Seen(
                tokens[rows].clone(),
                modulation_row(vec, rows.start).float().clone(),
                residual[rows].clone(),
            )
            branch.levels.append(levels[rows].amax())
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


def _relative(before: Tensor, now: Tensor) -> Tensor:
    change = (now.float() - before.float()).abs().mean()
    return change / (before.float().abs().mean() + _EPS)


class _Probe:
    """Looks at what enters the first block and what leaves the last, of a thin sample of rows."""

    def __init__(self, block_type: str, last: int) -> None:
        self._type, self._last = block_type, last
        self.tokens: Tensor | None = None
        self.modulation: Tensor | None = None
        self.residual: Tensor | None = None

    def options(self, options: Any) -> dict[str, Any]:
        """A copy of the host's options with ours in front of the patches already there."""
        replace = dict(options.get("patches_replace", {}))
        blocks = dict(replace.get("dit", {}))
        for i in {0, self._last}:
            blocks[(self._type, i)] = self._patch(i, blocks.get((self._type, i)))
        replace["dit"] = blocks
        return {**options, "patches_replace": replace}

    def _patch(self, index: int, previous: Any) -> Callable[..., dict[str, Any]]:
        def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            if index == 0:
                self.tokens, self.modulation = _sample(args["img"]).clone(), args["vec"]
            out: dict[str, Any] = (
                extra["original_block"](args) if previous is None else previous(args, extra)
            )
            if index == self._last and self.tokens is not None:
                self.residual = _sample(out["img"]) - self.tokens
            return out

        return patch


def _sample(rows: Tensor) -> Tensor:
    return rows[:, :: max(1, rows.shape[1] // _ROWS)]
