"""Runs of a model that is left alone, timed: what runs with MotionCache are compared with."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motioncache_core import Trace, TraceHandle
from ...motioncache_core.common.host_transfer import read
from .live_text import LiveText

# under which a model's clones carry the stopwatch, and under which key they carry the cache
STOPWATCH, CACHE = "motioncache_stopwatch", "motioncache"


def timed(model: Any, handle: TraceHandle, told: Trace, live: LiveText | None = None) -> Any:
    """A clone of a model whose sampling runs are timed, and not changed in any way.

    Clones of it that MotionCache caches are not timed here: their runs have traces of their own.

    Args:
        handle: gets a trace of each run.
        told: what these say beside the time.
        live: shows the time.
    """

    def run(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any,
            **kwargs: Any) -> Tensor:  # fmt: skip
        out: Tensor
        if CACHE in extra_args.get("model_options", {}).get("transformer_options", {}):
            out = executor(guider, sigmas, extra_args, *args, **kwargs)
            return out
        began = time.perf_counter()
        out = executor(guider, sigmas, extra_args, *args, **kwargs)
        # the device may be behind
        read(out.reshape(-1)[:1])
        seconds, steps = time.perf_counter() - began, sum(s > 0 for s in sigmas.tolist()[:-1])
        handle.runs.append(replace(told, seconds=seconds, steps=steps))
        if live is not None:
            live.show(f"{seconds:.1f} s in the sampler, nothing reused")
        return out

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, STOPWATCH, run)
    return clone
