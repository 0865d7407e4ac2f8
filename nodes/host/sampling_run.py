"""One sampling run of a model that caches, from its first step to its last."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...motioncache_core import RunSettings, Trace, TraceHandle, settings_for_run
from ...motioncache_core.common.phrases import lowered, phrase
from ...motioncache_core.common.reasons import because
from ...motioncache_core.engine.chunks.start import settings_for_chunks
from ...motioncache_core.report.report_text import line
from ...motioncache_core.report.shown_run import mark_of
from ...motioncache_core.sampling.setting_effects import changed_in_vain
from . import own_cache
from .compiled import COMPILE_ARGUMENTS, WHOLE
from .conflicts import check_conflicts, check_recording
from .engines import Run, engine_of
from .first_runs import is_first
from .live_text import LiveText
from .passes import BLOCK_CALLS, KEY

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchConfig:
    """What the patcher leaves on a model: read-only, shared by all its clones."""

    chosen: RunSettings
    handle: TraceHandle
    node_id: str | None = None
    measured: bool = False


def sample(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any,
           **kwargs: Any) -> Tensor:  # fmt: skip
    """OUTER_SAMPLE: one session from the first to the last step of a sampling run."""
    began = time.perf_counter()
    guider = executor.class_obj
    outer = guider.model_options
    options = outer["transformer_options"]
    config: PatchConfig = options[KEY]
    # a cache that was added behind this node shows only now
    check_conflicts(outer, already=False)
    check_recording(outer)
    levels = tuple(s for s in sigmas.tolist()[:-1] if s > 0)
    by_blocks = own_cache.keeps_own_cache(guider.model_patcher, sampler)
    chosen = _chosen(config.chosen, sampler, len(levels), by_blocks)
    run = Run(guider, outer, sampler, noise, sigmas, chosen, levels)
    engine = engine_of(run)
    used = engine.settings_of(run)
    trace = Trace(
        used.settings.as_dict(), preset=used.preset, why=list(used.why), steps=len(levels)
    )
    if engine.instead and run.no_tokens is not None:
        why, action = run.no_tokens.happened, run.no_tokens.action
        trace.remark(because("tokens_unknown", why=why, action=lowered(action)))
    _tell_what_is_in_vain(chosen, trace, _by_chunks(sampler))
    live = LiveText(config.node_id, config.measured)
    session = engine.start(run, used, trace, live.on_call)
    for remark in trace.remarks:
        log.warning("MotionCache - %s.", remark)
    ours: dict[str, Any] = {engine.key: session}
    if by_blocks:
        ours[BLOCK_CALLS] = own_cache.BlockCalls(len(sigmas) - 1)
    guider.model_options = _with(outer, ours)
    trace.seconds = trace.own_seconds = time.perf_counter() - began
    try:
        with is_first(guider, latent, cached=True) as trace.first:
            result: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options = outer
        session.close()
    if not trace.calls() and COMPILE_ARGUMENTS in outer:
        trace.decline(WHOLE)
    trace.mark = mark_of(result)
    config.handle.add(trace)
    live.on_end(trace)
    log.info("MotionCache - %s", line(trace))
    return result


def _with(outer: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a model, and what calls of it are to find in them."""
    return {**outer, "transformer_options": {**outer["transformer_options"], **ours}}


def _chosen(chosen: RunSettings, sampler: Any, steps: int, by_blocks: bool) -> RunSettings:
    """What a run of this length and with this sampler is asked to run with."""
    if chosen.preset is not None:
        chosen = settings_for_run(chosen.preset, steps)
    if by_blocks:
        chosen = replace(chosen, settings=own_cache.for_own_cache(chosen.settings))
    return settings_for_chunks(chosen) if _by_chunks(sampler) else chosen


def _by_chunks(sampler: Any) -> bool:
    return getattr(sampler, "calls_chunks", False)


def _tell_what_is_in_vain(chosen: RunSettings, trace: Trace, keeps_keys: bool) -> None:
    """Remark on settings that were changed, and have no effect beside the others."""
    if chosen.preset is not None:
        return
    in_vain = changed_in_vain(chosen.settings, keeps_keys)
    if in_vain:
        budget = chosen.settings.compute_budget
        trace.remark(
            because(
                "in_vain",
                policy=chosen.settings.policy,
                budget=phrase(" and compute_budget {budget:g}", budget=budget) if budget else "",
                names=", ".join(in_vain),
            )
        )
