"""Makes the runs that are missing, and keeps each as soon as it has ended."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import ROOT, code_hash
from own_model.graph import Found, filled
from own_model.policies import AGAIN, FRAMES, NONE, PEERS, Job, edited, key_of, marked, text_key
from own_model.workflow import Graph, Infos, WorkflowError
from PIL import Image
from quality.metrics import compare
from run_store import Record, Store
from torch import Tensor

if TYPE_CHECKING:
    # needs a package that ComfyUI brings
    from own_model.server import Finished, Server

# frames of a run that are kept for the sheet
SHOWN = 5


@dataclass(frozen=True)
class Clip:
    """A prompt and a seed; no prompt where the workflow's own is used."""

    prompt: str | None
    seed: int

    @property
    def label(self) -> str:
        words = "" if self.prompt is None else f"{self.prompt[:40]!r}, "
        return f"{words}seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a workflow."""

    graph: Graph
    found: Found
    infos: Infos
    clips: Sequence[Clip]
    jobs: Sequence[Job]

    def graph_of(self, clip: Clip, job: Job) -> Graph:
        """What the server is given, but for the mark that makes it sample anew."""
        given = filled(self.graph, self.found, clip.prompt, clip.seed)
        return edited(given, self.found, job, self.infos)

    def key(self, clip: Clip, job: Job) -> str:
        return key_of(self.graph_of(clip, job), job)

    def runs(self) -> Iterator[tuple[Clip, Job, str]]:
        for clip in self.clips:
            for job in self.jobs:
                yield clip, job, self.key(clip, job)


def fingerprint() -> str:
    """Names the pack's code, as far as this folder is the one that the server runs."""
    folders = ("motioncache_core", "kernels", "nodes")
    return code_hash(file for folder in folders for file in (ROOT / folder).glob("**/*.py"))


def video(files: Sequence[bytes]) -> Tensor:
    """PNG files as `(F, H, W, 3)` fp32 in 0..1.

    Raises:
        ValueError: there are none, or they differ in size.
    """
    if not files:
        raise ValueError("the run has no frames")
    frames = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    sizes = sorted({f"{f.shape[1]}x{f.shape[0]}" for f in frames})
    if len(sizes) > 1:
        raise ValueError(f"the run's frames differ in size: {', '.join(sizes)}")
    return torch.from_numpy(np.stack(frames)).float() / 255


class Sweep:
    """A plan's runs in a folder: `runs.jsonl`, all frames of uncached runs, some of the others.

    Args:
        facts: what all runs of a folder must share: device and versions.
        say: told a line about every run.

    Raises:
        WorkflowError: the folder holds this plan's runs of other facts.
    """

    def __init__(
        self, plan: Plan, folder: Path, facts: dict[str, str], say: Callable[[str], None]
    ) -> None:
        self.plan, self.folder, self.facts, self.say = plan, folder, facts, say
        self.store = Store(folder / "runs.jsonl")
        # which kinds of runs have loaded and compiled what they need
        self._warm: set[bool] = set()
        self._spent, self._made = 0.0, 0
        for _, _, key in plan.runs():
            theirs = self.store.records.get(key, {}).get("facts", facts)
            other = [f"{name} {theirs[name]}" for name in facts if theirs[name] != facts[name]]
            if other:
                raise WorkflowError(
                    f"{folder} holds runs of {', '.join(other)}; this is "
                    f"{', '.join(f'{name} {facts[name]}' for name in facts)}. Their times and "
                    "pictures cannot share a table: give another --out"
                )

    def forget_errors(self) -> None:
        """Have runs that failed made again."""
        for key, record in list(self.store.records.items()):
            if record["error"]:
                del self.store.records[key]

    def missing(self) -> list[tuple[Clip, Job, str]]:
        """What is not made yet. A run that two jobs share is made once."""
        left = {key: (clip, job, key) for clip, job, key in self.plan.runs() if not self.has(key)}
        return list(left.values())

    def has(self, key: str) -> bool:
        """Whether a run is made, and the frames of an uncached one are there to compare with."""
        record = self.store.records.get(key)
        if record is None:
            return False
        return bool(record["error"]) or record["policy"] != NONE or self.frames_of(key).is_dir()

    def frames_of(self, key: str) -> Path:
        return self.folder / "frames" / key

    async def run(self, server: Server, finished_clip: Callable[[Clip], None]) -> None:
        """Make what is missing.

        Args:
            finished_clip: called when no run of a clip is missing any more.
        """
        missing = self.missing()
        for place, (clip, job, key) in enumerate(missing):
            reference = self.store.records.get(self.plan.key(clip, Job(NONE)))
            if job.policy != NONE and (reference is None or reference["error"]):
                self.say(f"{clip.label}: {job.label} is left out, there is no uncached video")
            else:
                started = time.perf_counter()
                record = await self._one(server, clip, job, key)
                self._spent += time.perf_counter() - started
                self._made += 1
                left = self._spent / self._made * (len(missing) - place - 1) / 60
                self.say(
                    f"{place + 1} of {len(missing)}: {clip.label}: {job.label}: {told(record)}; "
                    f"about {f'{left / 60:.1f} h' if left > 90 else f'{left:.0f} min'} left"
                )
            if place + 1 == len(missing) or missing[place + 1][0] != clip:
                finished_clip(clip)

    async def _one(self, server: Server, clip: Clip, job: Job, key: str) -> Record:
        graph = self.plan.graph_of(clip, job)
        kind = job.policy not in (NONE, AGAIN, *PEERS)
        answer = None
        if kind not in self._warm:
            answer = await self._sample(server, graph)
            self._warm.add(kind)
        # a run that fails in its warm-up has failed
        if answer is None or answer.error is None:
            answer = await self._sample(server, graph)
        record: Record = {
            "key": key,
            "facts": self.facts,
            "policy": job.policy,
            "value": job.value,
            "prompt": clip.prompt,
            "seed": clip.seed,
            "seconds": sum(answer.seconds.values()),
            "sampler_seconds": answer.seconds,
            "total_seconds": answer.total,
            "error": answer.error,
            "out_of_memory": answer.out_of_memory,
        }
        if answer.error is None:
            record |= self._reported(answer)
            files = await server.frames(answer.outputs.get(FRAMES, {}).get("images", []))
            try:
                record |= self._compared(clip, job, key, files)
            except ValueError as error:
                record["error"] = str(error)
        if record["error"]:
            # a server that ran out of memory has unloaded its models
            self._warm.clear()
        self.store.add(record)
        return record

    async def _sample(self, server: Server, graph: Graph) -> Finished:
        timed = self.plan.found.timed
        return await server.run(marked(graph, self.plan.found, uuid.uuid4().hex), timed)

    def _compared(self, clip: Clip, job: Job, key: str, files: list[bytes]) -> Record:
        """Measures of a run's frames, which are written down first."""
        candidate = video(files)
        kept = range(len(files)) if job.policy == NONE else shown(len(files))
        self._write(key, {index: files[index] for index in kept})
        count: Record = {"frames": len(files)}
        if job.policy == NONE:
            return count
        place = self.frames_of(self.plan.key(clip, Job(NONE)))
        reference = video([file.read_bytes() for file in sorted(place.glob("*.png"))])
        return count | compare(reference, candidate, None)

    def _write(self, key: str, files: dict[int, bytes]) -> None:
        place = self.frames_of(key)
        part = place.with_name(f"{key}.part")
        for old in (part, place):
            shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
        for index, data in files.items():
            (part / f"{index:05}.png").write_bytes(data)
        os.replace(part, place)

    def _reported(self, answer: Finished) -> Record:
        """What MotionCache reports, all patchers together; empty for a run without it."""
        reports = []
        for patcher in self.plan.found.samplers:
            shown_text = answer.outputs.get(text_key(patcher), {}).get("text")
            if shown_text:
                reports.append(json.loads(shown_text[0]))
        return summed(reports) if reports else {}


def summed(reports: Sequence[dict[str, Any]]) -> Record:
    """Reports of one run's patchers as one: shares are weighed by the tokens at stake."""
    weights = [
        sum(c["rows"] * c["needed"] for e in report["evaluations"] for c in e["calls"])
        for report in reports
    ]
    total = sum(weights)

    def share(name: str) -> float:
        shares = [float(report["totals"][name]) for report in reports]
        if not total:
            return sum(shares) / len(shares)
        return sum(s * w for s, w in zip(shares, weights, strict=True)) / total

    # bytes on the device and in the host's memory
    held = [
        sum(value for name, value in report["memory"].items() if name.endswith("_bytes"))
        for report in reports
    ]
    return {
        "compute_share": share("compute_share"),
        "flops_share": share("flops_share"),
        "reasons": [report["reason"] for report in reports if report["reason"]],
        "distance": sorted({report["distance"] for report in reports if report["distance"]}),
        "evaluations": {
            kind: sum(report["totals"][kind] for report in reports)
            for kind in ("dense", "partial", "reuse")
        },
        # patchers of one run are at work one after the other
        "memory_mib": max(held) / 2**20,
        "kv": sorted({r["memory"]["kv_reason"] for r in reports if r["memory"]["kv_reason"]}),
    }


def shown(count: int) -> list[int]:
    """The frames of a video that a sheet shows, evenly over it."""
    if count <= SHOWN:
        return list(range(count))
    return [round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)]


def told(record: Record) -> str:
    """A run on one line."""
    if record["error"]:
        return f"failed: {record['error']}"
    words = f"{record['seconds']:.1f} s"
    if "compute_share" in record:
        words += f", {record['compute_share']:.0%} of the tokens"
    if "psnr" in record:
        words += ", identical" if record["identical"] else f", {record['psnr']:.1f} dB"
    return words
