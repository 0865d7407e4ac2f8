"""From settings, run and sampler to the session of a run."""

from __future__ import annotations

from collections.abc import Callable

from ...common.phrases import phrase
from ...common.protocols import TokenOps
from ...common.reasons import Reason, because
from ...policy.answer_plan import AnswerPlan, answer_plan
from ...report.trace import Trace
from ...report.trace_recorder import TraceRecorder
from ...sampling.run_facts import RunFacts
from ...sampling.sampler_response import SamplerResponse
from ...settings import MotionCacheSettings
from ..limits import why_off
from .answer_session import AnswerSession


def answer_session(
    settings: MotionCacheSettings,
    ops: TokenOps,
    run: RunFacts,
    trace: Trace,
    response: SamplerResponse | Reason,
    on_call: Callable[[Trace], None] | None = None,
) -> AnswerSession:
    """The session of a run whose whole evaluations are computed or foretold.

    Args:
        response: of the run's sampler, or why it has none.
        trace: is filled while the run goes on, and finished by `close`.
        on_call: is given the trace after each call of the model.
    """
    recorder = TraceRecorder(trace, run)
    plan: AnswerPlan | None = None
    if isinstance(response, Reason):
        recorder.decline(response)
    elif not why_off(settings, run, recorder):
        plan = answer_plan(settings, run, response)
        # ranks that waited for what another one decides could wait for ever
        plan = plan if run.shared else plan.watching()
        trace.expected = response.evaluations
        _tell(plan, settings, recorder)
    return AnswerSession(plan, ops, recorder, on_call)


def _tell(plan: AnswerPlan, settings: MotionCacheSettings, recorder: TraceRecorder) -> None:
    n, computed = plan.response.evaluations, len(plan.computed)
    how = plan.how
    recorder.trace.advise(
        phrase(
            "{computed} of the sampler's {n} evaluations are computed, the others {how}",
            computed=computed,
            n=n,
            how=how,
        )
    )
    if not plan.response.one_answer:
        recorder.remark(because("answers_apart"))
    elif plan.response.adds_noise:
        recorder.remark(because("noise_added", how=how))
    if round(settings.compute_budget * n) < len(plan.fixed):
        recorder.remark(
            because("budget_spent", budget=settings.compute_budget, steps=n, fixed=len(plan.fixed))
        )
