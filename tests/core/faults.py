"""A short run over a small Wan that can be broken anywhere, and what must not be left of it."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import Run, Steady, left_over, living_tensors
from motioncache_pack.tests.core.small_wan import TEXT_DIM, TEXT_TOKENS, small_wan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STEPS = 10
LEVELS = flow_sigmas(STEPS, 3.0)
BRANCHES = ("u", "c")
# all three kinds of evaluation, each of them more than once
SETTINGS = MotionCacheSettings(
    warmup_steps=2, uniform_updates=1, reuse_threshold=0.1, min_update_ratio=0.0, agreement=0.0,
    forecast=0.5, correction=1.0,
)  # fmt: skip

Grouping = Callable[[int], list[tuple[str, ...]]]
_ROOT = Path(__file__).parents[2]
_PACK = tuple(str(_ROOT / folder) for folder in ("kernels", "motioncache_core"))
_DEMO = str(_ROOT / "motioncache_core" / "demo")
_TORCH = str(Path(torch.__file__).parent)


def together(step: int) -> list[tuple[str, ...]]:
    """Both branches in one batch."""
    return [BRANCHES]


def network() -> Any:
    """Two blocks of one head."""
    return small_wan(1, 2)


def sampled(
    settings: MotionCacheSettings = SETTINGS,
    model: Any = None,
    *,
    size: tuple[int, int, int] = (3, 4, 4),
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    grouping: Grouping = together,
    before: Callable[[int], None] = lambda step: None,
    look: Callable[[Session], Any] = id,
    **facts: Any,
) -> tuple[Tensor, Trace]:
    """Latents and trace of a guided run in a session of its own.

    Args:
        grouping: the branches of each step, call by call. One that is left out is not guided with.
        before: is told every step before it is taken.
        look: is shown the session before it is closed.
    """
    rng = torch.Generator().manual_seed(8)
    x = torch.randn(samples, 16, *size, generator=rng).to(dtype)
    texts = torch.randn(2, samples, TEXT_TOKENS, TEXT_DIM, generator=rng).to(dtype)
    run = Run(model or network(), settings, sigmas=LEVELS, **{"profile": Steady(0.06), **facts})
    try:
        for step in range(STEPS):
            before(step)
            answers: dict[str, Tensor] = {}
            for group in grouping(step):
                text = torch.cat([texts[BRANCHES.index(name)] for name in group])
                out = run.call(torch.cat([x] * len(group)), 1000 * LEVELS[step], text, group)
                answers.update(zip(group, out.chunk(len(group)), strict=True))
            base = answers.get("u", answers["c"])
            velocity = base + 3 * (answers["c"] - base)
            x = x + (LEVELS[step + 1] - LEVELS[step]) * velocity
    finally:
        look(run.session)
        run.session.close()
    return x, run.trace


def kinds(trace: Trace) -> list[str]:
    """What each call executed, the declined ones last."""
    return [c.kind for c in trace.calls()]


def digest(latents: Tensor) -> str:
    """Tells latents that differ in a bit."""
    return hashlib.sha256(latents.float().numpy().tobytes()).hexdigest()


def module_state(model: Any) -> list[Any]:
    """Everything that a run could hang on a network."""
    return [
        (sorted(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks))
        + ((id(m.forward),) if "forward" in vars(m) else ())
        for m in model.modules()
    ]


class Interrupt(BaseException):
    """Like a KeyboardInterrupt: no handler of ordinary exceptions sees it."""


@contextmanager
def broken(block: int, at: int, error: type[BaseException]) -> Iterator[list[int]]:
    """A block of the network raises in one of its calls; the rows of all until then."""
    rows: list[int] = []

    def breaks(module: Any, args: Any) -> None:
        rows.append(args[0].shape[1])
        if len(rows) > at:
            raise error("stop")

    handle = network().blocks[block].register_forward_pre_hook(breaks)
    try:
        yield rows
    finally:
        handle.remove()


@contextmanager
def nothing_is_kept() -> Iterator[None]:
    """What runs inside leaves no tensor, no patch on the network and no thread."""
    model = network()
    tensors, threads, modules = living_tensors(), set(threading.enumerate()), module_state(model)
    yield
    assert left_over(tensors) == []
    assert set(threading.enumerate()) == threads
    assert module_state(model) == modules


class Exhausted(TorchDispatchMode):
    """Memory that runs out at some of the allocations that the pack's own code makes.

    Args:
        fails: numbers of the allocations that fail, from 0.

    Attributes:
        sites: file, line and operation of every allocation.
    """

    def __init__(self, *fails: int) -> None:
        super().__init__()
        self.fails, self.sites = set(fails), []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        site = _site()
        if site is None or not _new_memory(out, (*args, *(kwargs or {}).values())):
            return out
        self.sites.append((*site, str(func)))
        if len(self.sites) - 1 in self.fails:
            raise torch.OutOfMemoryError("simulated")
        return out


def _new_memory(out: Any, given: Any) -> bool:
    made = [t for t in _flat(out) if t.numel()]
    known = {t.untyped_storage().data_ptr() for t in _flat(given)}
    return any(t.untyped_storage().data_ptr() not in known for t in made)


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _flat(v)] if isinstance(value, (list, tuple)) else []


def _site() -> tuple[str, int] | None:
    """Where in the pack the operation was called; None if that is in the model or in a test."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, "<")):
            ours = name.startswith(_PACK) and not name.startswith(_DEMO)
            return (name[len(str(_ROOT)) :], frame.f_lineno) if ours else None
        frame = frame.f_back
    return None
