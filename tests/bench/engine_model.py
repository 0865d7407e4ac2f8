"""What the engine bench runs: networks of Wan's sizes, and sessions that compute a given share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from engine_ops import BenchOps
from motioncache_pack import kernels
from motioncache_pack.motioncache_core import PRESETS, ModelCall, RunFacts, Session, Trace
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.engine.shadow import beside
from motioncache_pack.motioncache_core.models.block_stream import BlockRun, RowGather
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.motioncache_core.policy import clip_decision as scope
from torch import Tensor

# what the presets do to tokens, from the second evaluation on; nothing but the accumulators decides
SETTINGS = replace(
    PRESETS["motion"],
    compute_budget=0.0,
    warmup_steps=1,
    reuse_threshold=1.0,
    agreement=0.0,
    min_update_ratio=0.0,
    max_stale_steps=0,
    dense_last=False,
    kv_cache="gpu",
)


# latents, and the other arguments by name
Inputs = tuple[Tensor, dict[str, Any]]

REPORTED = ("dim", "ffn_dim", "layers", "tokens", "batch", "kv_forecast")


@dataclass(frozen=True)
class Geometry:
    """A network and a clip.

    Attributes:
        size: latent frames, rows and columns.
        text: context tokens.
        kv_forecast: as in the settings; it takes as much memory as keys and values.
    """

    dim: int
    ffn_dim: int
    layers: int
    size: tuple[int, int, int]
    dtype: torch.dtype = torch.bfloat16
    batch: int = 1
    text: int = 512
    kv_forecast: float = SETTINGS.kv_forecast

    @property
    def tokens(self) -> int:
        frames, height, width = self.size
        return frames * (height // 2) * (width // 2)

    @property
    def attention_share(self) -> float:
        """Share of self-attention's products in the multiply-accumulates of a block."""
        attention = 2 * self.tokens * self.dim
        linear = 6 * self.dim**2 + 2 * self.dim * self.ffn_dim + 2 * self.text * self.dim
        return attention / (attention + linear)

    def facts(self) -> dict[str, Any]:
        """For a result file."""
        return {
            **{name: getattr(self, name) for name in REPORTED},
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention_share": round(self.attention_share, 4),
        }

    def needed_bytes(self) -> int:
        """Device memory: weights, keys and values, and the largest intermediates of a block.

        14B at 720p needs 28 GB + 62 GB + 23 GB, so all of Wan's sizes fit a device of 139 GiB; with
        `kv_forecast` it would need 62 GB more.
        """
        block = 8 * self.dim**2 + 2 * self.dim * self.ffn_dim
        row = self.batch * self.tokens * self.dtype.itemsize
        # residual, slope, input and output of the stack, what is corrected, fp32 queries or keys
        # being rotated
        activations = row * (20 * self.dim + 3 * self.ffn_dim)
        stored = (4 if self.kv_forecast else 2) * self.layers * row * self.dim
        return self.layers * block * self.dtype.itemsize + stored + activations

    def network(self, device: str) -> DemoWan:
        """A network with random weights, made where it runs. All weights count: biases, norms and
        modulation are random, and no activation grows out of range."""
        with torch.device("meta"):
            model = DemoWan(dim=self.dim, ffn_dim=self.ffn_dim, num_layers=self.layers)
        model = model.to(self.dtype).to_empty(device=device).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if name.endswith("modulation"):
                weight.normal_(std=self.dim**-0.5)
            elif weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.normal_(mean=float(name.endswith("weight")), std=0.02)
        return model

    @property
    def beside(self) -> bool:
        """Whether much of what the blocks do is not for rows of the video."""
        return False

    def for_gate(self) -> Geometry:
        """What the gate runs."""
        return replace(self, layers=2)

    def make(self, device: str) -> tuple[Any, Inputs]:
        """The network and what it is called with."""
        x = torch.randn(self.batch, 16, *self.size, device=device, dtype=self.dtype)
        text = torch.randn(self.batch, self.text, 4096, device=device, dtype=self.dtype)
        return self.network(device), (x, {"context": text})


_WAN_1_3B = {"dim": 1536, "ffn_dim": 8960, "layers": 30}
_WAN_14B = {"dim": 5120, "ffn_dim": 13824, "layers": 40}
# 81 frames of 832x480 and 1280x720
WAN = {
    "1.3b-480p": Geometry(**_WAN_1_3B, size=(21, 60, 104)),
    "14b-480p": Geometry(**_WAN_14B, size=(21, 60, 104)),
    "1.3b-720p": Geometry(**_WAN_1_3B, size=(21, 90, 160)),
    "14b-720p": Geometry(**_WAN_14B, size=(21, 90, 160), kv_forecast=0.0),
}
_CPU = {"dtype": torch.float32, "batch": 2, "text": 4}
SMALL = {
    "width 128": Geometry(128, 512, 4, (12, 16, 16), **_CPU),
    "width 512": Geometry(512, 2048, 4, (12, 16, 16), **_CPU),
    "width 1536": Geometry(1536, 6144, 2, (12, 16, 16), **_CPU),
}
SMOKE = {"smoke": Geometry(128, 192, 2, (4, 8, 8), **_CPU)}


class Runner:
    """One network in one session, whose evaluations compute the share that is asked for."""

    def __init__(self, geometry: Geometry, device: str) -> None:
        self.geometry, self.device = geometry, device
        self.model, (self.x, self.arguments) = geometry.make(device)
        self.ops = BenchOps(geometry.tokens, device)
        self.trace = Trace({})
        self.sigma = 0.9
        settings = replace(SETTINGS, kv_forecast=geometry.kv_forecast)
        self._session = Session(settings, self.ops, RunFacts(), self.trace)

    def unpatched(self) -> Tensor:
        """The network alone."""
        return self._network({})

    def without_blocks(self) -> Tensor:
        """The network without the blocks that rows are left out of: embeddings, rotary table,
        head, and what runs between the blocks on all rows."""
        return self._instead(
            lambda run, args, extra: args,
            lambda side, index, block, args, kwargs: side.skip(*args, **kwargs),
        )

    def one_row(self) -> Tensor:
        """The network with the same blocks on one row of the video, and all others."""
        rows = torch.zeros(1, 1, dtype=torch.int32, device=self.device)
        gather = RowGather(kernels, rows, self.geometry.tokens)

        def run_one(run: BlockRun, args: Any, extra: Any) -> Any:
            out = extra["original_block"](run.enter(args, gather))
            return run.with_tokens(out, run.stream(args).tokens)

        def one_beside(side: Any, index: int, block: Any, args: Any, kwargs: Any) -> Any:
            args, kwargs = side.take(index, args, kwargs, gather)
            return block(*args, **kwargs)

        return self._instead(run_one, one_beside)

    def cached(self, share: float, step: float = 1e-4) -> Tensor:
        """An evaluation with MotionCache that computes this share of the tokens, at a noise level
        one step lower; the first one computes all."""
        self.sigma -= step
        self.ops.share = share
        branches = tuple(range(self.geometry.batch))
        call = ModelCall(
            self.model, self._network, self.x, self.timestep(), branches, {}, self.arguments
        )
        return self._session.evaluate(call)

    def timestep(self) -> Tensor:
        return torch.full((self.geometry.batch,), 1000 * self.sigma, device=self.device)

    @property
    def computed(self) -> float:
        """Share of the tokens that the last evaluation computed, after rounding up."""
        return self.trace.calls()[-1].computed / self.geometry.tokens

    def close(self) -> None:
        self._session.close()

    def _instead(self, block: Callable[..., Any], side: Callable[..., Any]) -> Tensor:
        """The network with these in the place of its blocks, and of those beside the stack."""
        adapter, _ = find_adapter(self.model)
        adapter = adapter.of_call(self.model, {}, self.arguments) or adapter
        blocks = adapter.blocks(adapter.facts(self.model))
        patches = {(run.hook, i): partial(block, run) for run, i in blocks}
        with ExitStack() as stack:
            if adapter.side is not None:
                stack.enter_context(beside(self.model, adapter.side, side))
            return self._network({"patches_replace": {"dit": patches}})

    def _network(self, options: dict[str, Any]) -> Tensor:
        return self.model(self.x, self.timestep(), transformer_options=options, **self.arguments)


@contextmanager
def all_rows_partial() -> Iterator[None]:
    """Evaluations that would be dense send all rows through the partial path."""
    original = scope.decide

    def decide(settings: Any, state: Any, *args: Any, **named: Any) -> Any:
        decision = original(settings, state, *args, **named)
        due = torch.ones(state.tokens, dtype=torch.uint8, device=state.device)
        return replace(decision, kind="partial", active=state.tokens, due=due)

    scope.decide = decide
    try:
        yield
    finally:
        scope.decide = original


def gate(geometry: Geometry, device: str) -> str | None:
    """Why the partial path of two blocks at full width and length is wrong; None if it is not."""
    runner = Runner(geometry.for_gate(), device)
    limit = 1e-5 if geometry.dtype == torch.float32 else 2e-2
    try:
        first = runner.cached(1.0)
        checks = {"dense": (runner.unpatched(), first)}
        runner.x = torch.randn_like(runner.x)
        with all_rows_partial():
            partial = runner.cached(1.0)
        checks["all rows active"] = (runner.unpatched(), partial)
        if runner.trace.calls()[-1].kind != "partial":
            return "all rows active: the evaluation was not partial"
        # the same input again: what is computed and what is reused must both be its answer
        for share in (0.5, 0.0):
            again = runner.cached(share, step=0.0)
            checks[f"active {share:.0%}, unchanged"] = (runner.unpatched(), again)
    finally:
        runner.close()
    for name, (wanted, got) in checks.items():
        error = float((got.float() - wanted.float()).norm() / wanted.float().norm())
        # a NaN must not pass
        if not error <= limit:
            return f"{name}: differs from the network alone by {error:.2e}"
    return None
