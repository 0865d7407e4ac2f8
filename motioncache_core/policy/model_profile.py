"""The profile of one model: how fast its answer changes along the noise schedule, as a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..common.errors import ProfileError, SettingsError
from ..common.phrases import phrase
from .distance import CalibratedProfile

# counts up when a field changes its meaning or goes
SCHEMA = 1
KIND = "MotionCache profile"
# a table with fewer evaluations says too little
MIN_LEVELS = 6
# a run may begin so much above the first level that was recorded
_ROOM = 0.01
_AGAIN = "delete it and run MotionCache Calibrate again"


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed from one evaluation to the next, mean over the branches.

    Attributes:
        sigmas: noise levels of the evaluations, descending.
        input_change, embedding_change, output_change: relative L1 of the tokens before the first
            block, of the timestep modulation and of what the blocks add, one fewer than sigmas.
    """

    sigmas: tuple[float, ...]
    input_change: tuple[float, ...]
    embedding_change: tuple[float, ...]
    output_change: tuple[float, ...]

    @classmethod
    def of(cls, found: Mapping[tuple[float, float], Sequence[Sequence[float]]]) -> Changes | None:
        """One row of changes for every pair of neighbouring levels, where they make one chain of
        enough levels."""
        pairs = sorted(found, reverse=True)
        chained = all(a[1] == b[0] for a, b in pairwise(pairs))
        if not chained or len(pairs) + 1 < MIN_LEVELS:
            return None
        means = [
            tuple(sum(row[i] for row in found[p]) / len(found[p]) for i in range(3)) for p in pairs
        ]
        if not all(math.isfinite(value) for row in means for value in row):
            return None
        inputs, embeddings, outputs = zip(*means, strict=True)
        return cls((pairs[0][0], *(p[1] for p in pairs)), inputs, embeddings, outputs)


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A recording with the model it is of.

    Attributes:
        model: family and size, for people.
        fingerprint: of the weights, see `identity.fingerprint`.
        end: noise level that the recorded run ended at.
        name: of the file it came from, for reports.
    """

    model: str
    fingerprint: str
    changes: Changes
    end: float = 0.0
    name: str = field(default="", compare=False)

    def distance(self) -> CalibratedProfile:
        """The measure it makes. Below the last level that was evaluated nothing is known: the rate
        of the interval above goes on."""
        sigmas, changes = self.changes.sigmas, self.changes.output_change
        rate = changes[-1] / (sigmas[-2] - sigmas[-1])
        levels, travelled = [self.end], [0.0]
        steps = (rate * (sigmas[-1] - self.end), *reversed(changes))
        for sigma, change in zip(reversed(sigmas), steps, strict=True):
            levels.append(sigma)
            travelled.append(travelled[-1] + change)
        label = f"{self.model}, {self.name}" if self.name else self.model
        return CalibratedProfile(label, tuple(levels), tuple(travelled))

    def uncovered(self, sigmas: Sequence[float]) -> str | None:
        """Why a run at these noise levels is beyond what was recorded; None if it is not."""
        low, high = self.end - _ROOM, self.changes.sigmas[0] + _ROOM
        if all(low <= s <= high for s in sigmas):
            return None
        return phrase(
            "{name} was recorded at noise levels from {first:.3g} to {end:.3g}, this run goes from "
            "{high:.3g} to {low:.3g}",
            name=self.name or phrase("the profile"),
            first=self.changes.sigmas[0],
            end=self.end,
            high=max(sigmas),
            low=min(sigmas),
        )

    def dump(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        data = {
            "kind": KIND,
            "schema": SCHEMA,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "end": self.end,
            "sigmas": self.changes.sigmas,
            "output_change": self.changes.output_change,
            "input_change": self.changes.input_change,
            "embedding_change": self.changes.embedding_change,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> ModelProfile:
        """Read a file that `dump` wrote for the model with this fingerprint.

        Raises:
            ProfileError: it is corrupt, of another version or of another model.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ProfileError(f"the profile {path} cannot be read ({error}); {_AGAIN}") from error
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise ProfileError(f"{path} is no profile of MotionCache; move it away, or {_AGAIN}")
        if data.get("schema") != SCHEMA:
            raise ProfileError(
                f"the profile {path} has version {data.get('schema')!r}, this MotionCache reads "
                f"{SCHEMA}; {_AGAIN}"
            )
        try:
            profile = cls._checked(data, path.name)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProfileError(f"the profile {path} is damaged ({error!s}); {_AGAIN}") from error
        if profile.fingerprint != fingerprint:
            raise ProfileError(
                f"the profile {path} is of another model ({profile.model}, "
                f"{profile.fingerprint}), this one is {fingerprint}; move it away, or {_AGAIN}"
            )
        return profile

    @classmethod
    def _checked(cls, data: Mapping[str, Any], name: str) -> ModelProfile:
        names = ("sigmas", "input_change", "embedding_change", "output_change")
        sigmas, *changes = (tuple(float(v) for v in data[n]) for n in names)
        end = float(data["end"])
        numbers = [*sigmas, end, *(v for row in changes for v in row)]
        if not all(math.isfinite(v) and v >= 0 for v in numbers):
            raise SettingsError("a number is negative or not finite")
        if len(sigmas) < MIN_LEVELS or any(len(row) != len(sigmas) - 1 for row in changes):
            raise SettingsError(f"{len(sigmas)} noise levels do not fit the changes between them")
        if list(sigmas) != sorted(set(sigmas), reverse=True) or end >= sigmas[-1]:
            raise SettingsError("the noise levels do not descend")
        model, fingerprint = str(data["model"]), str(data["fingerprint"])
        return cls(model, fingerprint, Changes(sigmas, *changes), end, name)
