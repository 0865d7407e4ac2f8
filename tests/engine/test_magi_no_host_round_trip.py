"""An iteration of MAGI-1 reads from the device once at most, and only to decide."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import RunFacts, Trace
from motioncache_pack.motioncache_core.engine.chunks.chunk_session import ChunkSession
from motioncache_pack.motioncache_core.models.magi1.chunk_call import ChunkCall
from motioncache_pack.motioncache_core.models.magi1.network import plain_attention
from motioncache_pack.motioncache_core.models.magi1.steps import ChunkSteps
from motioncache_pack.motioncache_core.policy.chunk_phases import PhaseRules
from motioncache_pack.motioncache_core.report.trace_recorder import TraceRecorder
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.tests.engine.test_magi_policies import by_answers, by_phases
from motioncache_pack.tests.engine.test_no_host_round_trip import READBACK
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_close
from motioncache_pack.tests.support.sync_guard import (
    SyncGuard,
    module_on_device,
    on_device,
    on_host,
)

STEPS, CHUNKS = 16, 3
ITERATIONS = STEPS + (CHUNKS - 1) * 4
RULES = PhaseRules(0.05, 0.05, warm_up=2, chunk_steps=3)
BY_CHUNKS = replace(RULES, chunk_steps=None)
# how often an iteration may read, and whether single tokens are computed
POLICIES = {
    "none": (magi.every_chunk_computed, 0, False),
    "answers": (by_answers(compute_budget=0.5), 0, False),
    "published": (by_phases(RULES, True, iterations=ITERATIONS), 1, False),
    "velocities": (by_phases(RULES, False, iterations=ITERATIONS), 1, True),
    "chunks": (by_phases(BY_CHUNKS, False, iterations=ITERATIONS), 1, False),
}
CASES = [("distill", p) for p in POLICIES] + [("base", p) for p in ("none", "answers", "chunks")]


def sampled(case, make_policy, reads):
    """Latents and trace; on a device that is watched where `reads` says how often it may be read.

    The base model's second store of keys is copied into as well."""
    watched = reads is not None
    network = magi.network_of(case)
    network = module_on_device(network) if watched else network
    place = on_device if watched else lambda x: x
    options = case.options(steps=STEPS, near_clean=True, clean_pass=True)
    steps, trace = ChunkSteps(options), Trace({})
    facts = RunFacts(sigmas=steps.sigmas)
    session = ChunkSession(kernels, facts, "gpu", TraceRecorder(trace, facts), make_policy)
    texts = [place(case.rows_of(chunk)) for chunk in range(CHUNKS)]
    x = case.noise[:, :, : 6 * CHUNKS].clone()
    for it in forcing_schedule(6 * CHUNKS, STEPS, steps.forcing, 0):
        forcing = ForcingCall.at(it, steps.sigmas, steps.forcing)
        call = ChunkCall(
            network, plain_attention(network.config), place(x), forcing, options,
            case.distilled, texts.__getitem__, lambda: None,
        )  # fmt: skip
        if watched:
            guard = SyncGuard(reads=reads)
            with guard:
                moved = session.evaluate(call)
            # an iteration may reuse all of its chunks
            assert guard.ops > 5
            assert all(w.where[0][0] == READBACK for w in guard.waits)
            moved = on_host(moved)
        else:
            moved = session.evaluate(call)
        for frames, chunk in zip(it.chunk_frames(), it.steps, strict=True):
            if chunk.role == "active":
                now, then = steps.sigmas[chunk.step : chunk.step + 2]
                x[:, :, frames] += (1 - then / now) * moved[:, :, frames]
    with SyncGuard(reads=None):
        session.close()
    return x, trace


@torch.no_grad()
@pytest.mark.parametrize(("name", "policy"), CASES)
def test_an_iteration_reads_once_at_most(name, policy):
    case, (make_policy, reads, by_tokens) = magi.recorded(name), POLICIES[policy]
    on_it, traced = sampled(case, make_policy, reads)
    beside_it, expected = sampled(case, make_policy, None)
    kinds = [c.kind for c in traced.calls()]
    assert kinds == [c.kind for c in expected.calls()]
    assert ("reuse" in kinds) == (policy != "none")
    assert ("partial" in kinds) == by_tokens
    assert_close("latents", beside_it, on_it, 1e-4)
