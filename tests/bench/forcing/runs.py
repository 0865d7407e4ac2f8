"""The runs that `run.py` compares, and how their work is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import (
    ModelCall,
    MotionCacheSettings,
    RunFacts,
    Session,
    Trace,
)
from motioncache_pack.motioncache_core.common.decision_kinds import PARTIAL
from motioncache_pack.motioncache_core.demo.forcing import forcing_sample
from motioncache_pack.motioncache_core.demo.sampler import flow_sigmas
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.policy.distance import CalibratedProfile
from motioncache_pack.motioncache_core.report.trace import CallRecord
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from torch import Tensor

PLAIN, CAUSAL, CHUNK, MOTION = (
    "bidirectional",
    "block-causal",
    "block-causal + chunk",
    "block-causal + motion",
)
SHIFT, CFG, TEXT_TOKENS = 5.0, 2.0, 8
# every step moves the answer by 1 / steps, so of 20 steps the reuse threshold lets about half be
# reused by either policy
SETTINGS = {
    CAUSAL: MotionCacheSettings(reuse_threshold=0.0),
    CHUNK: MotionCacheSettings(policy="chunk", warmup_steps=4, reuse_threshold=0.14),
    MOTION: MotionCacheSettings(warmup_steps=4, uniform_updates=1, reuse_threshold=0.12),
}


def random_model(dim: int, layers: int) -> DemoWan:
    """A small Wan whose weights are random everywhere, the modulation included."""
    model = DemoWan(dim=dim, ffn_dim=4 * dim, num_layers=layers, text_dim=256)
    for name, parameter in model.named_parameters():
        # normed queries and keys of ordinary size, or attention would not tell keys apart
        torch.nn.init.normal_(parameter, float(".norm" in name and name.endswith("weight")), 0.03)
    return model.eval()


class Unpatched:
    """Carries out model calls without the engine, and records them like a trace would.

    Args:
        causal: apply block-causal attention as a mask over the whole window.
    """

    def __init__(self, causal: bool = False) -> None:
        self._causal = causal
        self.calls: list[CallRecord] = []

    def evaluate(self, call: ModelCall) -> Tensor:
        """Run one model call in full."""
        frames, height, width = call.x.shape[2:]
        spatial = -(-height // 2) * -(-width // 2)
        tokens = frames * spatial
        record = CallRecord("dense", len(call.branches), call.x.shape[0], tokens)
        record.pairs = tokens * tokens
        self.calls.append(record)
        if not self._causal or call.forcing is None:
            return call.run(dict(call.options))
        chunks = torch.tensor(call.forcing.iteration.chunks) * spatial
        chunk_of = torch.arange(len(chunks)).repeat_interleave(chunks)
        mask = chunk_of[:, None] >= chunk_of

        def attention(
            func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **kw: Any
        ) -> Tensor:
            if q.shape[1] == k.shape[1]:
                kw["mask"] = mask
            return func(q, k, v, **kw)

        return call.run({**call.options, "optimized_attention_override": attention})


@dataclass
class Run:
    """What a run made, and what it took.

    Attributes:
        split_chunks: decisions to compute some of a chunk's tokens.
    """

    latents: Tensor
    calls: list[CallRecord]
    split_chunks: int = 0


@dataclass
class Setting:
    """A clip, how it is sampled and what text goes with it."""

    model: DemoWan
    steps: int
    frames: int
    chunk_frames: int
    chunk_delay: int
    height: int
    width: int

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(1)
        size = (1, 16, self.frames, self.height, self.width)
        self.noise = torch.randn(size, generator=rng)
        self.text = torch.randn(2, TEXT_TOKENS, 256, generator=rng)
        self.sigmas = flow_sigmas(self.steps, SHIFT)

    def sample(self, evaluator: Any, attention: str) -> Tensor:
        """The whole run."""
        options = ForcingOptions(self.chunk_frames, self.chunk_delay, attention=attention)
        positive, negative = self.text[:1], self.text[1:]
        return forcing_sample(
            self.model, positive, negative, self.noise, self.sigmas, options, evaluator, cfg=CFG
        )

    def facts(self) -> RunFacts:
        """A distance that does not depend on the model, so that decisions repeat."""
        travelled = tuple(i / self.steps for i in range(self.steps + 1))
        profile = CalibratedProfile("bench", tuple(reversed(self.sigmas)), travelled)
        return RunFacts(sigmas=self.sigmas, profile=profile)

    def run(self, kind: str) -> Run:
        """Sample one kind of run."""
        if kind == PLAIN:
            plain = Unpatched()
            return Run(self.sample(plain, "bidirectional"), plain.calls)
        settings = SETTINGS[kind]
        trace = Trace(settings.as_dict())
        session = Session(settings, kernels, self.facts(), trace)
        try:
            latents = self.sample(session, "block_causal")
        finally:
            session.close()
        decisions = [chunk.kind for e in trace.evaluations for chunk in e.chunks]
        return Run(latents, trace.calls(), decisions.count(PARTIAL))


def counted_flops(model: DemoWan, calls: list[CallRecord]) -> int:
    """Work inside the blocks that grows with the video rows: their linear layers, and the
    query-key pairs of both attentions. Two floating-point operations per multiply-accumulate."""
    c, ffn = model.dim, model.blocks[0].ffn[0].out_features
    per_row = 6 * c * c + 2 * c * ffn + 2 * c * TEXT_TOKENS
    macs = sum(call.rows * (call.computed * per_row + call.pairs * 2 * c) for call in calls)
    return 2 * len(model.blocks) * macs
