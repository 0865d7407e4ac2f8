"""Runs the quality bench's jobs over processes, and keeps what is finished.

A file holds a run a line; a line is written when its run ends, so that a bench that was stopped
goes on where it was. A run's key holds the model, the code and everything the run depends on.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common import ROOT, code_hash
from motioncache_pack.motioncache_core.report.compute_share import (
    compute_share,
    engine_share,
    flops_share,
)
from motioncache_pack.motioncache_core.report.trace import Trace
from quality.cases import Case, case, model_hash
from quality.control import Player, Recorder
from quality.host import HostCase
from quality.metrics import compare, psnr, quicker, timed
from quality.policies import CACHED, EASY, LAZY, NONE, RANDOM, Job
from quality.variants import variant
from run_store import Record, Store, append
from torch import Tensor


@functools.cache
def fingerprint() -> str:
    """Names the model and the code that runs depend on."""
    bench = ROOT / "tests" / "bench" / "quality"
    files = [*ROOT.glob("motioncache_core/**/*.py"), *ROOT.glob("kernels/**/*.py")]
    files += [
        bench / f"{name}.py" for name in ("cases", "control", "host", "metrics", "runs", "variants")
    ]
    return f"{model_hash()}-{code_hash(files)}"


@dataclass
class Work:
    """Runs of one clip that are to be made by one process, each with its key: what the code was
    when the bench started."""

    mode: str
    seed: int
    jobs: dict[str, Job]
    path: Path


def outstanding(grids: Iterable[tuple[Case, dict[str, list[Job]]]], store: Store) -> Iterator[Work]:
    """What is not in the store. A job that several policies share is made once."""
    for clip, grid in grids:
        keys = {job.key(clip, fingerprint()): job for sweep in grid.values() for job in sweep}
        missing = {key: job for key, job in keys.items() if key not in store.records}
        if missing:
            yield Work(clip.mode, clip.seed, missing, store.path)


def run_all(work: Sequence[Work], processes: int) -> None:
    """Make all runs, each process on one thread."""
    started, done = time.perf_counter(), 0
    total = sum(len(w.jobs) for w in work)
    os.environ["OMP_NUM_THREADS"] = "1"
    # else a bench that is ended leaves its processes behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for made in pool.imap_unordered(run_clip, work):
            done += made
            minutes = (time.perf_counter() - started) / 60
            print(f"{done} of {total} runs, {minutes:.1f} minutes", file=sys.stderr, flush=True)


def run_clip(work: Work) -> int:
    """All runs of one clip, each against the uncached one."""
    clip = case(work.mode, work.seed)
    runner = Runner(clip)
    # a control plays the tape of the motion run before it
    for key, job in sorted(work.jobs.items(), key=lambda item: item[1].kind == RANDOM):
        record = {
            "key": key,
            "mode": clip.mode,
            "seed": clip.seed,
            "clip": clip.name,
            "kind": job.kind,
            "settings": None if job.settings is None else job.settings.as_dict(),
            **runner.run(job),
        }
        append(work.path, json.dumps(record) + "\n")
    return len(work.jobs)


@dataclass
class Runner:
    """Runs of one clip."""

    clip: Case
    tapes: dict[Job, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.latents, self.seconds = quicker(self.clip.uncached)
        self.video = self.clip.decode(self.latents)

    def run(self, job: Job) -> Record:
        """One run's figures."""
        if job.kind in (EASY, LAZY):
            return self.host.run(job.kind, job.threshold)
        if job.settings is None:
            raise ValueError(f"a run of kind {job.kind} needs settings")
        if job.kind == RANDOM:
            motion = replace(job, kind=CACHED)
            if motion not in self.tapes:
                self.sample(motion)
            ops: Any = Player(self.tapes[motion], self.clip.seed)
        else:
            ops = None
        latents, trace, seconds = self.sample(job, ops)
        record = {
            "compute_share": compute_share(trace),
            "flops_share": flops_share(trace),
            "engine_share": engine_share(trace),
            **seconds,
            **{f"uncached_{name}": taken for name, taken in self.seconds.items()},
            "computed": [call.computed for call in trace.calls()],
            **compare(self.video, self.clip.decode(latents)),
        }
        if job.kind == NONE:
            record["exact"] = torch.equal(latents, self.latents)
            record["rendered_psnr"] = psnr(self.clip.rendered, self.video)
        return record

    def sample(self, job: Job, ops: Any = None) -> tuple[Tensor, Trace, dict[str, float]]:
        """Latents, trace and seconds; keeps the tape of a run that a control may follow."""
        with variant(job.kind) as its:
            ops = its if ops is None else ops
            (latents, trace), seconds = timed(lambda: self.clip.cached(job.settings, ops))
        if isinstance(ops, Recorder):
            self.tapes[job] = ops.tape
        return latents, trace, seconds

    @functools.cached_property
    def host(self) -> HostCase:
        """The clip in ComfyUI, when it is needed."""
        return HostCase(self.clip, self.video)


def gate(
    grids: Iterable[tuple[Case, dict[str, list[Job]]]], store: Store
) -> tuple[list[str], dict[str, int]]:
    """What is wrong with the runs, and how many of each kind were checked.

    Without reuse the video must be the uncached one bit for bit, a control must compute as many
    rows in every call as the run it follows, and a host's uncached video must be ours to the eye.
    """
    red, checked = [], {"exact": 0, "controls": 0, "host": 0}
    for clip, grid in grids:
        where = f"{clip.mode}, seed {clip.seed}"
        for job in dict.fromkeys(job for sweep in grid.values() for job in sweep):
            record = store.records[job.key(clip, fingerprint())]
            if job.kind == NONE:
                checked["exact"] += 1
                if not record["exact"] or record["compute_share"] != 1:
                    red.append(f"{where}: without reuse the video is not the uncached one")
            if job.kind == RANDOM:
                checked["controls"] += 1
                motion = store.records.get(replace(job, kind=CACHED).key(clip, fingerprint()))
                if motion is None or motion["computed"] != record["computed"]:
                    red.append(f"{where}: the random control's counts are not motion's")
            if job.kind in (EASY, LAZY):
                checked["host"] += 1
                if record["host_psnr"] < HostCase.SAME:
                    red.append(
                        f"{where}: ComfyUI's uncached video is {record['host_psnr']:.1f} dB from "
                        f"ours; {HostCase.SAME:.0f} or more is the same clip"
                    )
    return red, checked
