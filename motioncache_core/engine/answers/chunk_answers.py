"""Answers carried chunk by chunk where chunks denoise one behind the other (ours).

The blocks' rows of a chunk that is not computed do not run, or only to be looked at by others;
what the sampler is given for it is foretold from the chunk's own last answers, at its own steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...common.protocols import TokenOps
from ...common.token_layout import TokenLayout
from ...models.adapter import ModelFacts
from ...policy.answer_plan import AnswerPlan, answer_plan
from ...policy.compute_budget import BudgetSteps
from ...sampling.forcing_call import ForcingCall
from ...sampling.model_call import BranchKey, ModelCall
from ...sampling.run_facts import RunFacts
from ...sampling.sampler_response import Model, Noise, euler, rehearse
from ...sampling.schedule import ACTIVE
from ...sampling.solver import make_solver
from ...settings import MotionCacheSettings
from .pass_state import PassState

# branch, window of the clip, chunk of the clip
Name = tuple[BranchKey, int, int]


def by_chunks(settings: MotionCacheSettings, run: RunFacts) -> tuple[MotionCacheSettings, RunFacts]:
    """Settings and run with which every chunk is computed at the steps that its plan says; nothing
    is carried by the blocks."""
    steps = run.step_sigmas
    computed = answer_plan(settings, run, euler((*steps, run.sigmas[-1]))).computed
    # what falls due from the step before, in thresholds, with room for rounding
    due = [1.5 * (k in computed) for k in range(len(steps))]
    travelled = itertools.accumulate(reversed((*due[1:], 0.0)), initial=0.0)
    threshold = settings.reuse_threshold
    profile = BudgetSteps(
        f"compute_budget {settings.compute_budget:g}",
        (0.0, *reversed(steps)),
        tuple(threshold * t for t in travelled),
    )
    blocks = replace(
        settings,
        policy="chunk",
        compute_budget=0.0,
        forecast=0.0,
        correction=0.0,
        max_stale_steps=0,
        uniform_updates=0,
    )
    return blocks, replace(run, profile=profile)


class ChunkAnswers:
    """The answers of a run's chunks.

    Args:
        settings: as the user has them.
    """

    def __init__(self, settings: MotionCacheSettings, run: RunFacts, ops: TokenOps) -> None:
        self._settings, self._run, self._ops = settings, run, ops
        self._plan: AnswerPlan | None = None
        self._states: dict[Name, PassState] = {}
        # those that the last call has computed, of one branch
        self._fresh: dict[Name, PassState] = {}
        # of each window and chunk that was computed twice, see `change`
        self._changes: dict[tuple[int, int], Tensor] = {}

    def finish(
        self, call: ModelCall, forcing: ForcingCall, computed: Sequence[bool], velocity: Tensor
    ) -> Tensor:
        """The velocity to give the sampler.

        Args:
            computed: of each chunk of the input, whether all of its rows were.
            velocity: `(B, C, F, H, W)` of the network; what is not computed is not read.
        """
        plan, it, out = self._plan_of(forcing), forcing.iteration, velocity
        first = forcing.first_chunk
        at_work = {(it.window, first + i) for i, c in enumerate(it.steps) if c.role == ACTIVE}
        self._states = {n: s for n, s in self._states.items() if n[1:] in at_work}
        self._fresh = {}
        for i, (frames, chunk) in enumerate(zip(it.chunk_frames(), it.steps, strict=True)):
            if chunk.role != ACTIVE:
                continue
            for row, key in enumerate(call.branches):
                rows = slice(row * call.samples, (row + 1) * call.samples)
                part = velocity[rows, :, frames].contiguous()
                name = (key, it.window, first + i)
                told = self._told(name, plan, call.network, chunk.step, part, computed[i])
                if computed[i] and row == 0:
                    self._fresh[name] = self._states[name]
                if told is not part:
                    out = out.clone() if out is velocity else out
                    out[rows, :, frames] = told.to(out.dtype)
        return out

    def _told(
        self,
        name: Name,
        plan: AnswerPlan,
        network: object,
        step: int,
        part: Tensor,
        computed: bool,
    ) -> Tensor:
        state = self._states.get(name)
        if state is not None and (not state.is_of(network) or not state.is_like(part)):
            state = None
        if not computed and state is not None:
            return state.reuse(step, part, 1.0, self._ops)
        # a chunk without answers has been computed, whatever was decided
        if state is None:
            state = self._states[name] = PassState(network, part, plan.ledger(), clean=True)
        return state.store(step, part, part, 1.0, self._ops)

    def _plan_of(self, forcing: ForcingCall) -> AnswerPlan:
        """The plan of a chunk, with the response of the sampler's own solver."""
        if self._plan is None:
            steps = self._run.step_sigmas
            sigmas = (*steps, self._run.sigmas[-1])
            solver = make_solver(forcing.options.solver, sigmas)

            def sample(model: Model, x: Tensor, _: Noise) -> Tensor:
                state = solver.start()
                for k, sigma in enumerate(steps):
                    x = state.step(k, x, model(x, sigma))
                return x

            self._plan = answer_plan(self._settings, self._run, rehearse(sample, sigmas))
        return self._plan

    def change(self, forcing: ForcingCall, layout: TokenLayout, facts: ModelFacts) -> Tensor | None:
        """How much each token's answer changed when its chunk was last computed, 1 where most of
        the chunk, 0 where it was not computed twice: `(L,)` fp32; None where nothing is new."""
        window, first = forcing.iteration.window, forcing.first_chunk
        found = {n[1:]: state.video_change(facts.patch) for n, state in self._fresh.items()}
        new = {place: change for place, change in found.items() if change is not None}
        if not new:
            return None
        old = {p: c for p, c in self._changes.items() if p[0] == window and p[1] >= first}
        self._changes = old | new
        still = next(iter(new.values())).new_zeros
        parts = (
            self._changes.get((window, first + i), still(frames * layout.spatial))
            for i, frames in enumerate(layout.chunks)
        )
        return torch.cat(tuple(parts))

    def drop(self) -> None:
        """Keep nothing."""
        self._states.clear()
        self._fresh, self._changes = {}, {}

    def nbytes(self) -> int:
        """Bytes of the answers."""
        return sum(state.nbytes() for state in self._states.values())
