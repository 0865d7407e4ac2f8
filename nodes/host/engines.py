"""Which engine serves a sampling run, and how each of them starts: a table, tried from the top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ... import kernels
from ...motioncache_core import (
    AnswerSession,
    DeviceSessions,
    RunFacts,
    RunSettings,
    Trace,
    answer_session,
)
from ...motioncache_core.common.reasons import Reason
from ...motioncache_core.engine.chunks.chunk_session import ChunkSession
from ...motioncache_core.engine.chunks.start import chunk_session
from .compiled import STATIC, argument, compiled_reason
from .devices import on_devices
from .engine_choice import for_evaluations, why_no_tokens
from .magi_network import CHUNK_SESSION
from .passes import ANSWERS, PROFILE, SESSION
from .profiles import profile_for
from .ranks import several_ranks
from .rehearsal import sampler_response
from .run_facts import for_answers, run_facts

EngineSession = AnswerSession | DeviceSessions | ChunkSession
OnCall = Callable[[Trace], None]


@dataclass(frozen=True, eq=False)
class Run:
    """A sampling run that is about to start.

    Attributes:
        options: of its model.
        chosen: what it was asked to run with.
        levels: noise levels that are evaluated.
    """

    guider: Any
    options: Mapping[str, Any]
    sampler: Any
    noise: Tensor
    sigmas: Tensor
    chosen: RunSettings
    levels: tuple[float, ...]

    @cached_property
    def in_the_way(self) -> Reason | None:
        """Why nothing inside the network can be helped; None if it can."""
        return compiled_reason(self.guider.model_patcher, self.options) or several_ranks()

    @cached_property
    def no_tokens(self) -> Reason | None:
        """Why tokens cannot be told apart, as far as that is known before the run."""
        return self.in_the_way or why_no_tokens(self.guider, self.options, self.noise, self.sigmas)

    def facts(self, end_percent: float, declined: Reason | None) -> RunFacts:
        """What the host knows of it."""
        profile = self.options["transformer_options"].get(PROFILE)
        return run_facts(self.guider, self.noise, self.sigmas, end_percent, profile, declined)


def _answers(run: Run, used: RunSettings, trace: Trace, on_call: OnCall) -> AnswerSession:
    sampling = run.guider.model_patcher.get_model_object("model_sampling")
    facts = for_answers(run.facts(used.settings.end_percent, None))
    facts = replace(facts, shared=several_ranks() is not None)
    response = sampler_response(run.sampler, run.sigmas, sampling)
    return answer_session(used.settings, kernels, facts, trace, response, on_call)


def _chunks(run: Run, used: RunSettings, trace: Trace, on_call: OnCall) -> ChunkSession:
    facts = run.facts(used.settings.end_percent, run.in_the_way)
    published = used.preset == "paper"
    return chunk_session(used.settings, kernels, facts, trace, published, on_call)


def _tokens(run: Run, used: RunSettings, trace: Trace, on_call: OnCall) -> DeviceSessions:
    patcher, settings = run.guider.model_patcher, used.settings
    facts = run.facts(settings.end_percent, run.in_the_way)
    profile, note = profile_for(patcher, used.preset, settings, run.levels)
    trace.advise(note)
    facts = facts if profile is None else replace(facts, profile=profile)
    session = on_devices(patcher, settings, facts, trace, on_call)
    if not trace.reason and argument(run.options, "dynamic") is False:
        trace.remark(STATIC)
    return session


@dataclass(frozen=True)
class Engine:
    """One way to serve a run.

    Attributes:
        serves: whether a run is this one's, where none above it in the table has taken it.
        key: under which calls of the model find its session.
        start: its session, from the run and what it runs with.
        instead: it stands in for tokens, and `settings_of` says with what.
    """

    serves: Callable[[Run], bool]
    key: str
    start: Callable[[Run, RunSettings, Trace, OnCall], EngineSession]
    instead: bool = False

    def settings_of(self, run: Run) -> RunSettings:
        """What the run is carried out with."""
        if not self.instead:
            return run.chosen
        return replace(run.chosen, settings=for_evaluations(run.chosen.settings), why=())


ENGINES = (
    # a network of its own, that is called chunk by chunk
    Engine(lambda run: getattr(run.sampler, "calls_chunks", False), CHUNK_SESSION, _chunks),
    # its chunks' rows are told apart, whatever the policy
    Engine(lambda run: getattr(run.sampler, "denoises_chunks", False), SESSION, _tokens),
    Engine(lambda run: run.chosen.settings.traits.answers, ANSWERS, _answers),
    Engine(lambda run: run.no_tokens is None, SESSION, _tokens),
    Engine(lambda run: True, ANSWERS, _answers, instead=True),
)


def engine_of(run: Run) -> Engine:
    """The first engine of the table that serves a run."""
    return next(engine for engine in ENGINES if engine.serves(run))
