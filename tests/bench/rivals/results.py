"""The result file, which several commands fill: a model and a contestant at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import save
from rivals.contestants import OURS
from rivals.table import ahead

# what all figures of a file have in common
_SHARED = ("comfyui", "sampler", "steps", "frames", "seed", "device", "torch")


class Results:
    """The figures of a file, with those that a command adds.

    Args:
        path: of the file; what is in it stays, but for what is measured anew.
        about: what the command measures, see `_SHARED`.
        command: how its figures can be had again.
        commit: of this pack.

    Raises:
        SystemExit: the file's figures cannot stand beside those of the command.
    """

    def __init__(self, path: Path, about: dict[str, Any], command: str, commit: str) -> None:
        self.path, self._command, self._commit = path, command, commit
        self.data: dict[str, Any] = {key: about[key] for key in _SHARED}
        self.data |= {"seeds": [], "evaluations": [], "loaded": {}, "models": {}}
        if not path.exists():
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in _SHARED:
            if before.get(key) != about[key]:
                sys.exit(
                    f"{path} is of {key} {before.get(key)}, this run of {about[key]}; their "
                    "figures cannot share a file. Name another one with --out, or delete it."
                )
        self.data = before

    def model(self, name: str, weights: str, uncached: str) -> None:
        """Starts with a model; what the file says of other weights by its name goes.

        Args:
            weights: names them.
            uncached: names what the first clip's uncached run gave.
        """
        same = {"weights": weights, "uncached": uncached}
        kept = self.data["models"].get(name, {})
        if {key: kept.get(key) for key in same} != same:
            if kept:
                print(f"{name}: its weights or its uncached video were other ones; measured anew")
            self.data["models"][name] = {**same, "contestants": {}, "ahead": {}}

    def put(self, name: str, who: str, entry: dict[str, Any], **of_pack: Any) -> None:
        """A contestant's figures on a model.

        Args:
            of_pack: how it was loaded, and its version; nothing of fewer steps.
        """
        how = {"command": self._command, "commit": self._commit}
        if of_pack:
            how["version"] = of_pack["version"]
            self.data["loaded"][who] = of_pack
        self.data["models"][name]["contestants"][who] = {**entry, **how}
        self._tell()

    def _tell(self) -> None:
        """Brings up to date what follows from the figures."""
        counts: set[int] = set()
        clips = 0
        for found in self.data["models"].values():
            entries = found["contestants"]
            for entry in entries.values():
                counts |= {int(n) for n in entry.get("at", {})}
                told = [len(at["psnr"]) for at in entry.get("at", {}).values() if at]
                clips = max(clips, *told, 0)
            found["ahead"] = {
                f"ours - {who}": _ahead(entries[OURS]["at"], entry["at"])
                for who, entry in entries.items()
                if "at" in entry and who != OURS and "at" in entries.get(OURS, {})
            }
        self.data["evaluations"] = sorted(counts)
        first = self.data["seed"]
        self.data["seeds"] = list(range(first, first + clips))

    def save(self) -> None:
        """Writes the file."""
        save(self.path, self.data)


def _ahead(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Ours less theirs over the clips that both have, by evaluations that both have."""
    found = {}
    for n in (n for n in theirs if n in ours):
        pair = ours[n], theirs[n]
        if None not in pair:
            longest = max(len(at["psnr"]) for at in pair)
            pair = tuple({"psnr": at["psnr"] + [None] * (longest - len(at["psnr"]))} for at in pair)
        found[n] = ahead(*pair)
    return found
