"""The caches of `run.py` behind one interface, and how they are run and counted."""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """What one cache did in one case.

    Attributes:
        verdict: "passes", "differs", "inert" (nothing was reused) or "crashes".
    """

    verdict: str
    said: str
    figures: dict[str, float] = field(default_factory=dict)


class Bench:
    """A small Wan in ComfyUI, and runs of it."""

    steps = 20

    def __init__(self, path: str) -> None:
        support = importlib.import_module("motioncache_pack.tests.support.fake_comfy")
        support.harness.use_real_comfy(path)
        self.host = support.harness.Host()
        runs = importlib.import_module("motioncache_pack.tests.support.node_runs")
        self.pack = runs.Pack(self.host)
        self._kind = self.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
        self._rows: dict[Any, int] = {}
        self.plain = self.sample(self.base())

    def base(self) -> Any:
        """The model without a cache."""
        return self.pack.wan()

    def guarded(self, model: Any) -> Any:
        """With a wrapper outside of all others that hands on a copy of the input."""
        clone = model.clone()
        clone.add_wrapper_with_key(
            self._kind, "private copy", lambda run, x, *args, **kw: run(x.clone(), *args, **kw)
        )
        return clone

    def sample(self, model: Any, frames: int = 3, batch: int = 1, **kwargs: Any) -> Tensor:
        """Latents of a seeded run with two prompts."""
        latent = torch.zeros(batch, 16, frames, 8, 8)
        out: Tensor = self.pack.sample(model, self.steps, latent=latent, **kwargs)
        return out

    def counted(self, model: Any, **kwargs: Any) -> tuple[Tensor, int]:
        """`sample`, and how many token rows went through the blocks."""
        rows = 0

        def seen(_: Any, args: Any, named: Any) -> None:
            nonlocal rows
            x = args[0] if args else named["x"]
            rows += x.shape[0] * x.shape[1]

        blocks = model.model.diffusion_model.blocks
        hooks = [block.register_forward_pre_hook(seen, with_kwargs=True) for block in blocks]
        try:
            out = self.sample(model, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return out, rows

    def uncached_rows(self, windowed: bool, **kwargs: Any) -> int:
        """Rows of the same run without a cache."""
        key = (windowed, *sorted(kwargs.items()))
        if key not in self._rows:
            base = self.base()
            self._rows[key] = self.counted(self.windowed(base) if windowed else base, **kwargs)[1]
        return self._rows[key]

    def error(self, got: Tensor, wanted: Tensor | None = None) -> float:
        """Relative distance to the uncached run, or to another one."""
        wanted = self.plain if wanted is None else wanted
        return float((got - wanted).norm() / wanted.norm())

    def windowed(self, model: Any) -> Any:
        """With ComfyUI's context windows: 5 latent frames each, 2 of them shared, in their places
        from step to step."""
        nodes = importlib.import_module("comfy.context_windows")
        clone = model.clone()
        clone.model_options["context_handler"] = nodes.IndexListContextHandler(
            context_schedule=nodes.get_matching_context_schedule("standard_static"),
            fuse_method=nodes.get_matching_fuse_method("pyramid"),
            context_length=5,
            context_overlap=2,
            context_stride=1,
            closed_loop=False,
            dim=2,
        )
        return clone

    def interrupted(self, model: Any) -> None:
        """A run that the user stops in the middle."""
        stop = self.host.model_management.InterruptProcessingException

        def callback(step: int, *_: Any) -> None:
            if step == self.steps // 2:
                raise stop

        try:
            self.sample(model, callback=callback)
        except stop:
            return
        raise RuntimeError("the run was not interrupted")

    def writes_into_input(self, model: Any) -> int:
        """Evaluations in which the tensor given to the network was written to."""
        written = 0

        def watch(run: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            nonlocal written
            before = x.clone()
            out: Tensor = run(x, *args, **kwargs)
            written += not torch.equal(x, before)
            return out

        clone = model.clone()
        kind = self.host.patcher_extension.WrappersMP.APPLY_MODEL
        clone.add_wrapper_with_key(kind, "watch", watch)
        self.sample(clone)
        return written

    @contextmanager
    def one_by_one(self, after: int = 0) -> Iterator[SimpleNamespace]:
        """ComfyUI calls the network once for each prompt, from a call on. It does so where two do
        not fit into memory; here they do, so that a cache may take what it wants.

        Yields:
            how many calls there were before, of two prompts each.
        """
        samplers = self.host.samplers
        real, seen = samplers.can_concat_cond, SimpleNamespace(asked=0, joint=0)

        def alone(one: Any, other: Any) -> bool:
            # both prompts are compared with the first
            seen.joint = min(after, seen.asked // 2)
            seen.asked += 1
            joined: bool = real(one, other)
            return joined if seen.joint < after else one is other

        with mock.patch.object(samplers, "can_concat_cond", alone):
            yield seen


class Subject:
    """A cache with its settings. This one is none."""

    name = "no cache"

    def __init__(self, bench: Bench) -> None:
        self.bench, self.settings = bench, self.defaults()

    def defaults(self) -> dict[str, Any]:
        return {}

    def put(self, model: Any, **changes: float) -> Any:
        """The model with the cache."""
        return model

    def model(self, guarded: bool = True, **changes: float) -> Any:
        """A new model with the cache, by default with a private copy of its input: EasyCache
        writes into it in 32 bits, and the other cases are to be judged without that."""
        base = self.bench.base()
        return self.put(self.bench.guarded(base) if guarded else base, **changes)

    def sample(self, model: Any, **kwargs: Any) -> tuple[Tensor, float]:
        """Latents, and token rows that went through the blocks as a share of the uncached run's."""
        out, rows = self.bench.counted(model, **kwargs)
        windowed = "context_handler" in model.model_options
        return out, rows / self.bench.uncached_rows(windowed, **kwargs)

    @cached_property
    def usual_error(self) -> float:
        """Of the plain run."""
        return self.bench.error(self.sample(self.model())[0])

    def told(self) -> tuple[float, float | None, str]:
        """Share of the work as counted, as told after the run, and where it is told."""
        return self.sample(self.model())[1], None, ""


class EasyCache(Subject):
    """ComfyUI's EasyCache with its node's defaults."""

    name = "EasyCache"

    def defaults(self) -> dict[str, Any]:
        return {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95}

    def put(self, model: Any, **changes: float) -> Any:
        node = getattr(importlib.import_module("comfy_extras.nodes_easycache"), f"{self.name}Node")
        return node.execute(model, **{**self.settings, **changes}, verbose=False).result[0]

    def told(self) -> tuple[float, float | None, str]:
        lines: list[str] = []
        heard, root = logging.Handler(), logging.getLogger()
        level = root.level
        root.addHandler(heard)
        root.setLevel(logging.INFO)
        try:
            with mock.patch.object(heard, "emit", lambda record: lines.append(record.getMessage())):
                share = super().told()[0]
        finally:
            root.removeHandler(heard)
            root.setLevel(level)
        found = re.search(r"skipped (\d+)/(\d+) steps", "\n".join(lines))
        if found is None:
            return share, None, ""
        return share, 1 - int(found[1]) / int(found[2]), "a line in the log"


class LazyCache(EasyCache):
    """ComfyUI's LazyCache with its node's defaults."""

    name = "LazyCache"


class MotionCache(Subject):
    """The pack's node."""

    name = "MotionCache"

    def defaults(self) -> dict[str, Any]:
        runs = importlib.import_module("motioncache_pack.tests.support.node_runs")
        return dict(runs.MIXED)

    def put(self, model: Any, **changes: float) -> Any:
        patched, self._handle = self.bench.pack.patch(model, **{**self.settings, **changes})
        return patched

    def told(self) -> tuple[float, float | None, str]:
        share = super().told()[0]
        report = self.bench.pack.nodes["MotionCacheReport"].execute(self._handle, {}).result
        said = json.loads(report[2])["totals"]["compute_share"]
        return share, said, "a node: text, picture, JSON"


CACHES = (Subject, EasyCache, LazyCache, MotionCache)
