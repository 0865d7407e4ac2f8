"""One model's clips, their uncached runs, and what contestants make of them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rivals.clips import HostClip
from rivals.contestants import Contestant
from rivals.counting import Rows
from rivals.host import RivalHost, Sampled, decibels
from rivals.packs import Loaded, brief
from rivals.table import Run, at, promising, told
from run_store import Store

FEWER = "fewer steps, no cache"


class NotRepeatableError(Exception):
    """An uncached run is not the same twice, so that nothing can be compared with it."""


class Model:
    """A model's part of a result file. Finished runs are kept, and not made again.

    Args:
        clip: of a number, cut into so many steps.
        clips: how many there are.
        wanted: evaluations.
        name: of the model, with all that its runs depend on besides clip and contestant.
    """

    def __init__(
        self,
        host: RivalHost,
        clip: Callable[[int, int], HostClip],
        clips: int,
        steps: int,
        wanted: Sequence[int],
        store: Store,
        name: str,
    ) -> None:
        self.host, self.clips, self.steps, self.wanted = host, clips, steps, wanted
        self._store, self._name = store, name
        self.clip = functools.cache(clip)
        self.uncached = functools.cache(self._uncached)

    def measure(self, one: Contestant, loaded: Loaded) -> dict[str, Any]:
        """Everything that is told of a contestant."""
        who = f"{one.name} {loaded.version}"
        try:
            why = self._kept((who, "gate"), lambda: {"why": self.gate(one, loaded)})["why"]
            if why is not None:
                return {"why": why}
            settings = list(one.settings(self.clip(0, self.steps).from_image))
            found = self.runs(one, loaded, settings, who)
            after = self._kept((who, "after"), lambda: {"same": self.repeats()})
        except NotRepeatableError:
            raise
        except Exception as error:
            # whatever a pack raises is the pack's, and the others go on
            return {"why": brief(error)}
        entry = {"tried": len(settings), "at": self._told(found, settings)}
        if not after["same"]:
            entry["after"] = "leaves the process such that an uncached run is another one"
        return entry

    def gate(self, one: Contestant, loaded: Loaded) -> str | None:
        """Why its numbers would mean nothing; None if they do."""
        reference = self.uncached(0)
        off = self._with(one, loaded, one.switched_off(self.clip(0, self.steps).from_image), 0)
        if off.rows != reference.rows:
            return f"told to reuse nothing it makes {self._count(off, 0):g} evaluations"
        if not torch.equal(off.latents, reference.latents):
            return (
                "told to reuse nothing it does not make the uncached video "
                f"({decibels(reference, off):.1f} dB)"
            )
        return None

    def runs(
        self, one: Contestant, loaded: Loaded, settings: Sequence[Any], who: str
    ) -> list[list[Run]]:
        """Runs of each clip: on the first one all settings that have the wanted counts, on the
        others the best of these."""
        numbers = list(range(len(settings)))
        if one.scheduled:
            numbers = self.worth_a_run(one, loaded, settings, who)
        found: list[list[Run]] = []
        for i in range(self.clips):
            found.append([])
            for number in numbers:
                knobs = settings[number]
                record = self._kept(
                    (who, i, knobs),
                    lambda k=knobs, i=i: self._figures(self._with(one, loaded, k, i), i),
                )
                found[-1].append(Run(number, record["evaluations"], record["psnr"]))
            if i == 0:
                numbers = promising(found[0], self.wanted, one.kept, one.beside)
        return found

    def worth_a_run(
        self, one: Contestant, loaded: Loaded, settings: Sequence[Any], who: str
    ) -> list[int]:
        """Numbers of the settings that compute as many evaluations as are wanted, or the next
        possible number, one for each choice of evaluations."""
        plans = []
        for knobs in settings:
            schedule = {name: value for name, value in knobs.items() if name not in one.free}
            about = (who, "plan", self.steps, schedule)
            record = self._kept(
                about, lambda k=knobs: {"steps": self.planned(one, loaded, k)}, one.by_model
            )
            plans.append(tuple(record["steps"]))
        least = {min((p[-1] for p in plans if p[-1] >= n), default=None) for n in self.wanted}
        different: dict[Any, int] = {}
        for number, (plan, knobs) in enumerate(zip(plans, settings, strict=True)):
            if plan[-1] in least:
                key = (plan, tuple(knobs[name] for name in one.free))
                different.setdefault(key, number)
        return list(different.values())

    def planned(self, one: Contestant, loaded: Loaded, settings: Any) -> list[float]:
        """Evaluations so far after each step, in a run of one frame whose blocks do nothing: where
        they do not depend on what blocks give, that is what is computed. The first one always
        is."""
        short = self.clip(0, self.steps).first_frame()
        made = one.put(loaded, self.host.model(short), settings)
        rows = self.host.sample(made, short, dry=True).steps
        return [Rows(r).evaluations(rows[0]) for r in rows]

    def fewer_steps(self) -> dict[str, Any]:
        """What a user could do instead: runs of fewer steps."""
        found = [
            [
                self._kept(
                    (FEWER, i, n),
                    lambda i=i, n=n: self._figures(self.host.plain(self.clip(i, n)), i),
                )
                for i in range(self.clips)
            ]
            for n in self.wanted
        ]
        runs = [[Run(k, r[i]["evaluations"], r[i]["psnr"]) for k, r in enumerate(found)]
                for i in range(self.clips)]  # fmt: skip
        return {"tried": len(found), "at": self._told(runs, [{"steps": n} for n in self.wanted])}

    def fingerprint(self) -> str:
        """Names what the first clip's uncached run gives."""
        latents = self.uncached(0).latents
        return hashlib.sha256(latents.numpy().tobytes()).hexdigest()[:12]

    def repeats(self) -> bool:
        """Whether an uncached run is what it was at first."""
        again = self.host.plain(self.clip(0, self.steps))
        return torch.equal(again.latents, self.uncached(0).latents)

    def _uncached(self, index: int) -> Sampled:
        clip = self.clip(index, self.steps)
        found = self.host.plain(clip)
        if index == 0 and not torch.equal(found.latents, self.host.plain(clip).latents):
            raise NotRepeatableError("the uncached run is not the same twice")
        return found

    def _with(self, one: Contestant, loaded: Loaded, settings: Any, index: int) -> Sampled:
        clip = self.clip(index, self.steps)
        return self.host.sample(one.put(loaded, self.host.model(clip), settings), clip)

    def _figures(self, run: Sampled, index: int) -> dict[str, float]:
        psnr = decibels(self.uncached(index), run)
        return {"evaluations": self._count(run, index), "psnr": psnr}

    def _count(self, run: Sampled, index: int) -> float:
        return Rows(run.rows).evaluations(self.uncached(index).rows / self.steps)

    def _told(self, runs: Sequence[Sequence[Run]], settings: Sequence[Any]) -> dict[str, Any]:
        return {str(n): told(at(runs, n), settings) for n in self.wanted}

    def _kept(self, what: Any, make: Callable[[], dict[str, Any]], own: bool = True) -> Any:
        """A finished run's record, made where there is none.

        Args:
            own: whether it is this model's; else it is that of all.
        """
        key = json.dumps([self._name if own else "", *what], default=str)
        if key not in self._store.records:
            self._store.add({"key": key, **make()})
        return self._store.records[key]
