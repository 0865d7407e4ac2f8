"""What only the ablations try: variants that the pack has no setting for.

Each is the pack's own code with one part replaced for the length of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.engine.clip_cache import ClipCache
from motioncache_pack.motioncache_core.policy.motion_weights import token_patches
from motioncache_pack.motioncache_core.sampling import forcing
from motioncache_pack.motioncache_core.sampling.schedule import CLEAN, DONE
from quality.control import Recorder
from torch import Tensor

LATENTS, LAST = "motion_source noisy latents", "motion_source last evaluation"
ORDER, UNCLEAN = "forecast of second order", "no clean evaluation"


class SecondOrder(Recorder):
    """The kernels, but a whole evaluation's residual is carried on along a parabola through its
    last three values (Newton's form), where the forecast of the pack is a line through two.

    Only for policies that compute all rows or none.
    """

    def __init__(self) -> None:
        super().__init__()
        # by slope: that of the evaluation before, 1 / its interval, second divided difference and
        # the last interval
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._bend: dict[int, tuple[Tensor, Tensor]] = {}

    def store_residual(
        self, x: Tensor, y: Tensor, residual: Tensor, slope: Tensor | None, rate: Tensor | None
    ) -> None:
        """Learns the second difference too, from the third evaluation on."""
        kernels.store_residual(x, y, residual, slope, rate)
        if slope is None or rate is None:
            return
        interval = torch.where(rate == 0, 0.0, 1.0 / rate).reshape(1, -1, 1)
        key = slope.data_ptr()
        if key in self._before:
            slope_before, interval_before = self._before[key]
            both = interval + interval_before
            bend = torch.where(both == 0, 0.0, (slope - slope_before) / both)
            self._bend[key] = bend, interval
        self._before[key] = slope.clone(), interval

    def reuse_residual(
        self, x: Tensor, residual: Tensor, slope: Tensor | None, gain: Tensor | None
    ) -> Tensor:
        """`x + r + gain * slope + gain * (gain + interval) * bend`."""
        out: Tensor = kernels.reuse_residual(x, residual, slope, gain)
        if slope is None or gain is None or slope.data_ptr() not in self._bend:
            return out
        bend, interval = self._bend[slope.data_ptr()]
        ahead = gain.reshape(1, -1, 1)
        return out + (ahead * (ahead + interval) * bend).to(out.dtype)


def _latents(self: ClipCache, call: Any, evaluation: Any, out: Tensor) -> Tensor:
    seen = call.x[:, : self.facts.out_channels].float()
    return token_patches(seen, self.facts.patch).contiguous()


def _since_last(self: ClipCache, call: Any, evaluation: Any, out: Tensor) -> Tensor | None:
    """How much the predicted clean video changed since the evaluation before."""
    now = self._motion_features(call, evaluation, out)
    kept = self.__dict__.setdefault("_predicted", {})
    before, kept[call.branches] = kept.get(call.branches), now
    return None if before is None else (now - before).abs().mean(dim=-1)


def _unclean(schedule: Callable[..., Any]) -> Callable[..., Any]:
    def without(*args: Any, **kwargs: Any) -> list[Any]:
        run = []
        for now in schedule(*args, **kwargs):
            # chunks that are given have no other keys and values
            later = now.index > 0
            steps = tuple(
                replace(step, role=DONE) if later and step.role == CLEAN else step
                for step in now.steps
            )
            run.append(replace(now, steps=steps))
        return run

    return without


@contextmanager
def variant(kind: str) -> Iterator[Any]:
    """The ops of a run of this kind, while the pack is as that kind wants it; any other kind is
    the pack as it is."""
    patch: Any = None
    if kind == LATENTS:
        patch = mock.patch.object(ClipCache, "_motion_features", _latents)
    elif kind == LAST:
        patch = mock.patch.object(ClipCache, "_maps", _since_last)
    elif kind == UNCLEAN:
        patch = mock.patch.object(forcing, "forcing_schedule", _unclean(forcing.forcing_schedule))
    ops = SecondOrder() if kind == ORDER else Recorder()
    if patch is None:
        yield ops
    else:
        with patch:
            yield ops
