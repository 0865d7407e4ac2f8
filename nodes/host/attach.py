"""What ComfyUI is told and asked: attach to a model, live as long as one sampling run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ... import kernels
from ...motioncache_core import (
    AnswerSession,
    DeviceSessions,
    ForcingCall,
    ModelCall,
    RunSettings,
    Trace,
    TraceHandle,
    answer_session,
    settings_for_run,
)
from ...motioncache_core.common.host_transfer import upload
from ...motioncache_core.common.reasons import Reason, because
from ...motioncache_core.engine.chunks.chunk_session import ChunkSession
from ...motioncache_core.engine.chunks.start import chunk_session, settings_for_chunks
from ...motioncache_core.report.report_text import gain, line, on_node, progress
from ...motioncache_core.report.shown_run import mark_of
from ...motioncache_core.sampling.setting_effects import changed_in_vain
from . import answers, model_entry, own_cache
from .compiled import (
    COMPILE_ARGUMENTS,
    COMPILE_KEY,
    FULLGRAPH,
    STATIC,
    WHOLE,
    argument,
    compiled_as_a_whole,
)
from .conflicts import check_conflicts, check_recording
from .devices import on_devices
from .engine_choice import for_evaluations, known_adapter, why_no_tokens
from .foreign import behind, foreign_code, note_of_partial
from .live_text import LiveText
from .magi_network import CHUNK_SESSION
from .passes import ANSWERS, BLOCK_CALLS, SESSION, begin, passes_of
from .profiles import profile_for
from .ranks import several_ranks
from .rehearsal import sampler_response
from .run_facts import for_answers, run_facts, window_of
from .uncached import STOPWATCH, timed

log = logging.getLogger(__name__)

KEY = "motioncache"
FORCING = "motioncache_forcing"
PROFILE = "motioncache_profile"


@dataclass(frozen=True)
class PatchConfig:
    """What the patcher leaves on a model: read-only, shared by all its clones."""

    chosen: RunSettings
    handle: TraceHandle
    node_id: str | None = None


def attach(model: Any, chosen: RunSettings, handle: TraceHandle, node_id: str | None = None) -> Any:
    """A clone of the model that caches; the model itself is not changed.

    With the preset "off" its runs are only timed, and the trace has the reason.

    Args:
        chosen: settings, or a preset that becomes settings when a run's length is known.
        node_id: the node that shows how a run goes.

    Raises:
        ConflictError: another cache is on the model already.
    """
    live = LiveText(node_id)
    if chosen.preset == "off":
        handle.add(off(chosen))
        live.show(on_node(handle.runs[-1].reason))
        return timed(model, handle, off(chosen), live)
    already = KEY in model.model_options.get("transformer_options", {})
    check_conflicts(model.model_options, already, getattr(model, "wrappers", None))
    check_recording(model.model_options)
    clone = model.clone()
    overruled = "settings are connected,\npreset is not used\n" * (chosen.preset is None)
    live.show(overruled + gain(chosen.settings))
    options = clone.model_options.setdefault("transformer_options", {})
    options[KEY] = PatchConfig(chosen, handle, node_id)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _run)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, begin)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, answers.evaluate)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, model_entry.evaluate)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, evaluate)
    return clone


def off(chosen: RunSettings) -> Trace:
    """What is told of runs of a model that was left as it is."""
    reason = because("off")
    return Trace(chosen.settings.as_dict(), preset="off", reason=reason, finished=True)


def detach(model: Any) -> Any:
    """A clone of the model as it was before `attach`."""
    clone = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL,
                 WrappersMP.DIFFUSION_MODEL):  # fmt: skip
        clone.remove_wrappers_with_key(kind, KEY)
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE):
        clone.remove_wrappers_with_key(kind, STOPWATCH)
    clone.model_options.get("transformer_options", {}).pop(KEY, None)
    return clone


def _run(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any,
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
    levels = [s for s in sigmas.tolist()[:-1] if s > 0]
    preset = config.chosen.preset
    chosen = config.chosen if preset is None else settings_for_run(preset, len(levels))
    by_blocks = own_cache.keeps_own_cache(guider.model_patcher, sampler)
    if by_blocks:
        chosen = replace(chosen, settings=own_cache.for_own_cache(chosen.settings))
    # a network of its own, that is called chunk by chunk
    own_network = getattr(sampler, "calls_chunks", False)
    chosen = settings_for_chunks(chosen) if own_network else chosen
    in_the_way = compiled_reason(guider.model_patcher, outer) or several_ranks()
    no_tokens = None
    # its chunks' rows are told apart, whatever the policy
    by_chunks = getattr(sampler, "denoises_chunks", False)
    if not chosen.settings.traits.answers and not by_chunks:
        no_tokens = in_the_way or why_no_tokens(guider, outer, noise, sigmas)
    settings, told = chosen.settings, list(chosen.why)
    if no_tokens is not None:
        settings, told = for_evaluations(settings), []
    trace = Trace(settings.as_dict(), preset=preset, why=told, steps=len(levels))
    if no_tokens is not None:
        why, action = no_tokens.happened, no_tokens.action
        trace.remark(because("tokens_unknown", why=why, action=action[0].lower() + action[1:]))
    in_vain = changed_in_vain(chosen.settings) if preset is None else []
    if in_vain:
        budget = chosen.settings.compute_budget
        trace.remark(
            because(
                "in_vain",
                policy=chosen.settings.policy,
                budget=f" and compute_budget {budget:g}" * bool(budget),
                names=", ".join(in_vain),
            )
        )
    live = LiveText(config.node_id)
    whole = settings.traits.answers and not by_chunks
    session: AnswerSession | DeviceSessions | ChunkSession
    declined = None if whole else in_the_way
    facts = run_facts(guider, noise, sigmas, settings.end_percent, options.get(PROFILE), declined)
    if whole:
        sampling = guider.model_patcher.get_model_object("model_sampling")
        response = sampler_response(sampler, sigmas, sampling)
        session = answer_session(
            settings, kernels, for_answers(facts), trace, response, live.on_call
        )
        ours: dict[str, Any] = {ANSWERS: session}
    elif own_network:
        published = preset == "paper"
        session = chunk_session(settings, kernels, facts, trace, published, live.on_call)
        ours = {CHUNK_SESSION: session}
    else:
        profile, note = profile_for(guider.model_patcher, preset, settings, levels)
        trace.advise(note)
        facts = facts if profile is None else replace(facts, profile=profile)
        session = on_devices(guider.model_patcher, settings, facts, trace, live.on_call)
        ours = {SESSION: session}
        if by_blocks:
            ours[BLOCK_CALLS] = own_cache.BlockCalls(len(sigmas) - 1)
        if not trace.reason and argument(outer, "dynamic") is False:
            trace.remark(STATIC)
    for remark in trace.remarks:
        log.warning("MotionCache - %s.", remark)
    guider.model_options = {**outer, "transformer_options": {**options, **ours}}
    trace.seconds = trace.own_seconds = time.perf_counter() - began
    try:
        result: Tensor = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options = outer
        session.close()
    if not trace.calls() and COMPILE_ARGUMENTS in outer:
        trace.decline(WHOLE)
    trace.mark = mark_of(result)
    config.handle.add(trace)
    live.show(progress(trace))
    log.info("MotionCache - %s", line(trace))
    return result


def compiled_reason(patcher: Any, model_options: Mapping[str, Any]) -> Reason | None:
    """Why a compiled model cannot be helped; None if it can, or is not compiled."""
    if compiled_as_a_whole(patcher, patcher.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)):
        return WHOLE
    return FULLGRAPH if argument(model_options, "fullgraph") else None


def evaluate(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """DIFFUSION_MODEL: one call of the network, by the session of its run."""
    if torch.compiler.is_compiling():
        # the network is compiled as a whole, and code of this call would serve all others
        traced: Tensor = executor(x, timestep, *args, **kwargs)
        return traced
    options = next(
        (a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "sigmas" in a), None
    )
    session: DeviceSessions | None = None if options is None else options.get(SESSION)
    if session is None or options is None:
        # called outside of a sampler that was wrapped
        out: Tensor = executor(x, timestep, *args, **kwargs)
        return out
    passes = passes_of(options, len(x if isinstance(x, Tensor) else x[0]))
    if not passes:
        untouched: Tensor = executor(x, timestep, *args, **kwargs)
        return untouched
    network = executor.class_obj
    if model_entry.entered_here(network, options):
        inside: Tensor = executor(x, timestep, *args, **kwargs)
        return inside
    adapter = known_adapter(network)
    forcing: ForcingCall | None = options.get(FORCING)
    if forcing is not None and adapter is not None:
        levels = upload(forcing.sigmas, x.device) * adapter.timestep_scale
        timestep = levels.expand(x.shape[0], -1)

    def run(ours: dict[str, Any]) -> Tensor:
        swapped = [ours if a is options else a for a in args]
        named = {k: ours if a is options else a for k, a in kwargs.items()}
        result: Tensor = executor(x, timestep, *swapped, **named)
        return result

    names = () if adapter is None else adapter.positional
    foreign = None if adapter is None else foreign_code(adapter, network, options)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    call = ModelCall(
        network, run, x, timestep, passes, options, arguments, forcing, window_of(options),
        foreign, note_of_partial(options), behind(options, WrappersMP.DIFFUSION_MODEL, KEY),
    )  # fmt: skip
    velocity = session.evaluate(call)
    return velocity if forcing is None else _as_seen_by_host(velocity, forcing)


def _as_seen_by_host(velocity: Tensor, forcing: ForcingCall) -> Tensor:
    """The velocity that makes `x - level * velocity` the prediction of every frame.

    The host knows one noise level. Frames that are not being denoised are told to stay.
    """
    share = upload(forcing.active_sigmas, velocity.device) / forcing.level
    share = share[:, None, None]
    return torch.where(share > 0, velocity.float() * share, 0.0)
