"""A server that only seems to sample, and sweeps over it, for the tests of
`tests/bench/own_model/run.py`."""

import argparse
import asyncio
import io
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from motioncache_pack.tests.support.user_workflows import infos, one_model
from PIL import Image

FRAMES, HEIGHT, WIDTH = 7, 20, 28
FACTS = {"device": "toy", "pack": "1"}


def png(frame):
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "png")
    return data.getvalue()


def clip_of(seed):
    """`(F, H, W, 3)` uint8: a bright box that moves over a still background."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(40, 90, (1, HEIGHT, WIDTH, 3), dtype=np.uint8), FRAMES, 0)
    for i in range(FRAMES):
        frames[i, 4:10, 2 + 2 * i : 8 + 2 * i] = 200
    return frames


@dataclass
class Finished:
    seconds: dict = field(default_factory=dict)
    total: float = 1.0
    outputs: dict = field(default_factory=dict)
    error: str | None = None
    out_of_memory: bool = False


def report(share, needed=100):
    calls = [{"rows": 2, "needed": needed}]
    totals = {"compute_share": share, "flops_share": share, "dense": 1, "partial": 1, "reuse": 0}
    memory = {"residual_bytes": 2**20, "kv_bytes": 2**21, "kv_host_bytes": 0, "kv_reason": "fits"}
    return {"totals": totals, "memory": memory, "reason": None, "distance": "toy",
            "evaluations": [{"calls": calls}]}  # fmt: skip


class FakeServer:
    """Takes graphs as a server does: without a mark that is new it samples nothing.

    `fails` names kinds of nodes that raise, `noise` is added to every second
    uncached video of a clip, `dies_at` is the run that never ends.
    """

    def __init__(self, fails=(), noise=0, dies_at=None):
        self.fails, self.noise, self.dies_at = fails, noise, dies_at
        self.made, self.marks, self.uncached = [], set(), {}

    async def run(self, graph, timed=()):
        if len(self.made) + 1 == self.dies_at:
            raise asyncio.CancelledError
        marks = {graph[key]["inputs"]["motioncache_run"] for key in timed}
        assert len(marks) == 1 and not marks & self.marks
        self.marks |= marks
        kinds = {n["class_type"] for n in graph.values()}
        (patcher,) = [n for n in graph.values() if n["class_type"] == "MotionCachePatcher"] or [{}]
        seed = next(graph[key]["inputs"]["seed"] for key in timed)
        named = patcher["inputs"].get("preset") if patcher else "none"
        self.made.append((named if "EasyCache" not in kinds else "EasyCache", seed))
        if bad := kinds & set(self.fails) or {named} & set(self.fails):
            return Finished(error=f"{bad.pop()}: out of memory", out_of_memory=True)
        settings = next(
            (n["inputs"] for n in graph.values() if n["class_type"] == "MotionCacheSettings"), {}
        )
        error = {"none": 0, "quality": 1, "fast": 4}.get(named, 2)
        if settings and settings["compute_budget"]:
            error = round(1 / settings["compute_budget"]) - 1
        elif settings:
            error = int(100 * settings["reuse_threshold"])
        if named == "none":
            self.uncached[seed] = self.uncached.get(seed, -1) + 1
            error = self.noise * (self.uncached[seed] % 2)
        took = {"none": 10.0 + self.uncached.get(seed, 0)}.get(named, 10.0 / (1 + error))
        out = {"motioncache frames": {"images": (clip_of(seed) + np.uint8(error))}}
        if patcher and "MotionCacheReport" in kinds:
            text = json.dumps(report(1 / (1 + error)))
            out["motioncache json 4"] = {"text": [text]}
        return Finished(dict.fromkeys(timed, took), took + 1, out)

    async def frames(self, images):
        return [png(frame) for frame in images]


@pytest.fixture
def sweep(bench, tmp_path):
    """`sweep(policies, ...)`: a plan of two clips and a sweep in the test's folder."""

    def make(policies=("quality", "fast"), seeds=2, facts=FACTS, budgets=(), thresholds=()):
        model, runs = bench("own_model.run"), bench("own_model.runs")
        graph = one_model()
        graph["2"]["inputs"]["text"] = "a fox"
        args = argparse.Namespace(images=None, policies=policies, sweep=True, prompts=None,
                                  budgets=budgets, thresholds=thresholds, peer_thresholds=(),
                                  seeds=seeds, first_seed=0)  # fmt: skip
        plan = model.planned(args, graph, infos())
        said = []
        found = runs.Sweep(plan, tmp_path / "out", facts, said.append)
        return SimpleNamespace(plan=plan, sweep=found, said=said, runs=runs, model=model)

    return make


def run(made, server):
    clips = []
    asyncio.run(made.sweep.run(server, clips.append))
    return clips


def figures_of(made):
    return made.model.figures(made.plan, made.sweep.store.records)


def text_of(made, found):
    return made.model.markdown("T", FACTS, made.plan, found)
