"""How far the model's answer has moved since the last evaluation.

Three measures, from the most to the least informed:

* `TimestepPolynomial`: relative L1 of the timestep modulation through a fitted polynomial
  (TeaCache, Apache-2.0, coefficients of its Wan 2.1 "retention" fit);
* `CalibratedProfile`: the residual's relative change along the noise schedule, measured once;
* `InputChange`: relative L1 of the tokens that enter the first block (MAGI-1 setting of the paper).

A measure turns a call into a signal and two signals into a distance; it holds no state.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..common.errors import CacheShapeError, SettingsError
from ..common.host_transfer import upload, widest
from ..common.phrases import phrase
from ..common.protocols import Distance, DistanceSource

log = logging.getLogger(__name__)


_EPS = 1e-8
_SIGNAL_ROWS = 4096


@dataclass(frozen=True)
class TimestepPolynomial:
    """`poly(rel_l1(e, e_previous))`, per frame, the largest frame counts (TeaCache)."""

    model: str
    coefficients: tuple[float, ...]
    clamp: bool = True

    @property
    def name(self) -> str:
        return phrase("timestep polynomial ({model})", model=self.model)

    def to(self, device: torch.device) -> TimestepPolynomial:
        return self

    def signal(self, tokens: Tensor, modulation: Tensor | None, sigma: Tensor) -> Tensor:
        if modulation is None:
            raise CacheShapeError(f"{self.name} needs a timestep modulation, and there is none")
        return modulation.float()

    def between(self, previous: Tensor, current: Tensor) -> Distance:
        change = (current - previous).abs().mean(dim=(1, 2))
        rel = (change / (previous.abs().mean(dim=(1, 2)) + _EPS)).amax()
        d = torch.zeros_like(rel)
        for c in self.coefficients:
            d = d * rel + c
        if not self.clamp:
            return d
        # the fits are not zero where nothing changed, which a repeated noise level would pay for
        return torch.where(rel == 0, 0.0, d.clamp_min(0.0))


@dataclass(frozen=True)
class CalibratedProfile:
    """Distance travelled along the noise schedule, interpolated from a measured table.

    Attributes:
        sigmas: noise levels, ascending from 0 to 1.
        travelled: cumulative relative change of the residual at those levels, ascending.
    """

    model: str
    sigmas: tuple[float, ...]
    travelled: tuple[float, ...]

    def __post_init__(self) -> None:
        ordered = list(self.sigmas) == sorted(set(self.sigmas))
        grows = list(self.travelled) == sorted(self.travelled)
        if len(self.sigmas) != len(self.travelled) or len(self.sigmas) < 2:
            raise SettingsError("a profile needs two or more sigmas, each with one travelled value")
        if not (ordered and grows):
            raise SettingsError("a profile's sigmas and travelled values must ascend")

    @property
    def name(self) -> str:
        return f"calibrated profile ({self.model})"

    @classmethod
    def load(cls, path: Path) -> CalibratedProfile:
        """Read a profile written by `dump`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["model"], tuple(data["sigmas"]), tuple(data["travelled"]))

    def dump(self, path: Path) -> None:
        """Write the profile as JSON."""
        data = {"model": self.model, "sigmas": self.sigmas, "travelled": self.travelled}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def to(self, device: torch.device) -> _ProfileOnDevice:
        tables = (upload(t, device, widest(device)) for t in (self.sigmas, self.travelled))
        return _ProfileOnDevice(*tables)


@dataclass(frozen=True)
class _ProfileOnDevice:
    """A calibrated profile that is looked up where the noise level is."""

    sigmas: Tensor
    travelled: Tensor

    def signal(self, tokens: Tensor, modulation: Tensor | None, sigma: Tensor) -> Tensor:
        """Distance travelled down to this noise level."""
        level = sigma.to(self.sigmas.dtype).reshape(1)
        above = torch.searchsorted(self.sigmas, level, right=True)
        above = above.clamp(1, len(self.sigmas) - 1)
        low, high = (self.sigmas.index_select(0, i) for i in (above - 1, above))
        start, end = (self.travelled.index_select(0, i) for i in (above - 1, above))
        share = ((level - low) / (high - low)).clamp(0.0, 1.0)
        return (start + share * (end - start)).reshape(())

    def between(self, previous: Tensor, current: Tensor) -> Distance:
        return (previous - current).abs()


@dataclass(frozen=True)
class InputChange:
    """Relative L1 of the tokens entering the first block; for models without coefficients."""

    name: str = field(default=phrase("input change"), init=False)

    def to(self, device: torch.device) -> InputChange:
        return self

    def signal(self, tokens: Tensor, modulation: Tensor | None, sigma: Tensor) -> Tensor:
        # a thin sample of rows is enough for a mean and keeps the copy small
        step = max(1, tokens.shape[1] // _SIGNAL_ROWS)
        return tokens[:, ::step].clone()

    def between(self, previous: Tensor, current: Tensor) -> Distance:
        change = (current.float() - previous.float()).abs().mean()
        return change / (previous.float().abs().mean() + _EPS)


def advice(source: DistanceSource) -> str | None:
    """What to say of a measure whose thresholds mean something else than the presets' do.

    Polynomials and profiles both tell the relative change of the model's answer, which the presets'
    thresholds are in. The change of the input is another quantity.
    """
    if not isinstance(source, InputChange):
        return None
    return phrase(
        "the presets' thresholds are not calibrated for this model: they are relative changes of "
        "the model's answer, and only the change of its input is known here. MotionCache Calibrate "
        "measures the answer once, and later runs use that"
    )
