"""Runs of a model that is left alone, timed: what runs with MotionCache are compared with."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motioncache_core import Trace, TraceHandle
from ...motioncache_core.common.host_transfer import read
from ...motioncache_core.report.node_text import left_alone
from ...motioncache_core.report.shown_run import mark_of
from .first_runs import is_first
from .live_text import LiveText
from .passes import KEY

# under which a model's clones carry the stopwatch
STOPWATCH = "motioncache_stopwatch"


def timed(model: Any, handle: TraceHandle, told: Trace, live: LiveText | None = None) -> Any:
    """A clone of a model whose sampling runs are timed, and not changed in any way.

    Clones of it that MotionCache caches are not timed here: their runs have traces of their own.

    Args:
        handle: gets a trace of each run.
        told: what these say beside the time.
        live: shows the time.
    """

    took: list[float] = []

    def sample(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any,
               **kwargs: Any) -> Tensor:  # fmt: skip
        """SAMPLER_SAMPLE: the sampler alone, as the model may have to be loaded before."""
        began = time.perf_counter()
        out: Tensor = executor(guider, sigmas, extra_args, *args, **kwargs)
        # the device may be behind
        read(out.reshape(-1)[:1])
        took.append(time.perf_counter() - began)
        return out

    def run(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any,
            **kwargs: Any) -> Tensor:  # fmt: skip
        """OUTER_SAMPLE: a run, which is known by its latents."""
        took.clear()
        guider = executor.class_obj
        cached = KEY in guider.model_options.get("transformer_options", {})
        with is_first(guider, latent, cached) as first:
            result: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if not took or cached:
            return result
        if handle.runs and not handle.runs[-1].seconds:
            # what was said before the first run
            handle.runs.clear()
        steps = sum(s > 0 for s in sigmas.tolist()[:-1])
        trace = replace(told, seconds=sum(took), steps=steps, first=first)
        trace.mark = mark_of(result)
        handle.add(trace)
        if live is not None:
            live.show(left_alone(trace.seconds))
        return result

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, STOPWATCH, run)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, STOPWATCH, sample)
    return clone
