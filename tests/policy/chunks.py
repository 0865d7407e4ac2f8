"""Chunks of a few tokens, each of which decides for itself."""

import torch
from motioncache_pack import kernels as ops
from motioncache_pack.motioncache_core.policy.chunk_state import ChunkState
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.runs import decide_at_once as decide

# in the motion phase from the second evaluation on, each token for itself
PLAIN = MotionCacheSettings(
    warmup_steps=1, uniform_updates=0, agreement=0.0, min_update_ratio=0.0, max_stale_steps=0,
    reuse_threshold=0.25,
)  # fmt: skip


def chunk(frames=1, positions=4):
    return ChunkState(slice(0, frames * positions), frames, torch.device("cpu"))


def started(settings, weights):
    """A chunk of `frames x positions` weights that has been computed once."""
    weights = torch.tensor(weights)
    state = chunk(*weights.shape)
    assert decide(settings, state, None, ops).kind == "dense"
    state.weights = weights.reshape(-1)
    return state


def rows(decision, tokens):
    if decision.kind == "partial":
        return decision.due.nonzero().view(-1).tolist()
    return list(range(tokens)) if decision.kind == "dense" else []
