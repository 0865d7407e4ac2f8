"""From settings, run and sampler to the session of a chunk-by-chunk run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...common.phrases import phrase
from ...common.protocols import TokenOps
from ...common.reasons import because
from ...models.magi1.chunk_call import ChunkCall
from ...models.magi1.network import PATCH
from ...models.magi1.options import CHUNK_FRAMES
from ...models.magi1.steps import ChunkSteps
from ...policy.answer_plan import answer_plan
from ...policy.chunk_phases import PhaseRules
from ...report.trace import Trace
from ...report.trace_recorder import TraceRecorder
from ...sampling.run_facts import RunFacts
from ...sampling.run_settings import RunSettings
from ...sampling.sampler_response import euler
from ...sampling.schedule import forcing_schedule
from ...settings import PRESETS, MotionCacheSettings
from ..limits import why_off
from .answer_policy import AnswerPolicy
from .chunk_policy import ChunkPolicy
from .chunk_session import ChunkSession
from .phase_policy import PhasePolicy

# the published script for MAGI-1, whose thresholds are in other units than other models' are
PUBLISHED = replace(PRESETS["paper"], reuse_threshold=0.0065, uniform_updates=20)
# policies whose thresholds are read here; what the others want is foretold from answers
_BY_THRESHOLD = ("motion", "chunk")


def settings_for_chunks(chosen: RunSettings) -> RunSettings:
    """The settings of a run that decides chunk by chunk.

    Whoever asks for a share of the run, or for what chunks at noise levels of their own cannot
    share, gets as much work foretold from answers.
    """
    if chosen.preset == "paper":
        return replace(chosen, settings=PUBLISHED)
    settings = chosen.settings
    off = settings.reuse_threshold == 0 or settings.traits.answers
    if off or (settings.compute_budget == 0 and settings.policy in _BY_THRESHOLD):
        return chosen
    budget = settings.compute_budget or PRESETS["balanced"].compute_budget
    ours = replace(
        PRESETS["balanced"],
        compute_budget=budget,
        end_percent=settings.end_percent,
        kv_cache=settings.kv_cache,
        verbose=settings.verbose,
    )
    why = f"policy answer in the place of {settings.policy}, chunk by chunk"
    return replace(chosen, settings=ours, why=(*chosen.why, why))


def chunk_session(
    settings: MotionCacheSettings,
    ops: TokenOps,
    run: RunFacts,
    trace: Trace,
    published: bool,
    on_call: Callable[[Trace], None] | None = None,
) -> ChunkSession:
    """The session of a run that decides chunk by chunk.

    Args:
        settings: of `settings_for_chunks`.
        trace: is filled while the run goes on, and finished by `close`.
        published: the method to the letter, see `PhasePolicy`.
        on_call: is given the trace after each iteration.
    """
    recorder = TraceRecorder(trace, run, on_call)
    off = why_off(settings, run, recorder)

    def make_policy(call: ChunkCall, steps: ChunkSteps) -> ChunkPolicy | None:
        if off:
            return None
        if settings.traits.answers:
            return _answers(settings, ops, run, steps, recorder)
        return _phases(settings, call, steps, published, recorder)

    return ChunkSession(ops, run, settings.kv_cache, recorder, make_policy, on_call)


def _answers(
    settings: MotionCacheSettings,
    ops: TokenOps,
    run: RunFacts,
    steps: ChunkSteps,
    recorder: TraceRecorder,
) -> AnswerPolicy:
    plan = answer_plan(settings, run, euler(steps.sigmas))
    n, computed = plan.response.evaluations, len(plan.computed)
    recorder.trace.advise(
        phrase(
            "{computed} of each chunk's {n} steps are computed, the others {how}",
            computed=computed,
            n=n,
            how=plan.how,
        )
    )
    if round(settings.compute_budget * n) < len(plan.fixed):
        recorder.remark(
            because("budget_spent", budget=settings.compute_budget, steps=n, fixed=len(plan.fixed))
        )
    return AnswerPolicy(plan, ops)


def _phases(
    settings: MotionCacheSettings,
    call: ChunkCall,
    steps: ChunkSteps,
    published: bool,
    recorder: TraceRecorder,
) -> PhasePolicy:
    by_tokens = settings.traits.per_token and call.distilled
    rules = PhaseRules(
        settings.reuse_threshold,
        settings.reuse_threshold,
        settings.warmup_steps,
        settings.uniform_updates if by_tokens else None,
        1.0 - settings.motion_sensitivity,
    )
    frames, (height, width) = call.x.shape[2], call.x.shape[3:]
    iterations = forcing_schedule(
        frames, len(steps.sigmas) - 1, steps.forcing, call.forcing.iteration.prefix
    )
    if settings.traits.per_token and not call.distilled:
        # the other passes' keys of tokens that are not computed are not kept
        recorder.trace.advise(phrase("whole chunks, as the base model has three passes for each"))
    recorder.trace.distance = phrase("change of the embedded latents")
    tokens = CHUNK_FRAMES * (height // PATCH) * (width // PATCH)
    return PhasePolicy(rules, steps, tokens, len(iterations), published)
