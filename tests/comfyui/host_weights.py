"""What a family's networks on the host are made of and held to: random weights, one kind of call,
and an oracle in the place of the network.

To be imported by tests that have a host; nothing here imports it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.tests.support.family import Family, Oracle
from motioncache_pack.tests.support.host_wan import random_weights
from torch import Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(network: Any, tame: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Random weights for a network that was built empty."""
    return random_weights(network, tame, "scale_shift_table", (0.1, 0.1))


@dataclass(frozen=True)
class HostFamily:
    """One kind of call of a family.

    Attributes:
        model: makes the network on a host and has it loaded.
        positive, negative: conditioning.
        latent: what is sampled.
        hooks: keys of all blocks, from the network.
        before: condition rows between text and video that the network's head reads, or behind it.
        behind: whether the video's rows are the first ones, not the last.
        frames: latent frames of the token grid.
        mask: of the sampler, which parts are denoised.
        cfg: of the guider.
    """

    model: Callable[[Any], Any]
    positive: list[Any]
    negative: list[Any]
    latent: Callable[[], Any]
    hooks: Callable[[Any], list[tuple[str, int]]]
    tokens: str = "img"
    before: int = 0
    frames: int = 3
    mask: Callable[[], Any] | None = None
    cfg: float = 3.0
    sites: tuple[int, ...] = (1,)
    own_call: Callable[[Any, int], Any] | None = None
    behind: bool = False

    def sample(self, host: Any, model: Any, steps: int = 6, **how: Any) -> Any:
        """What a KSampler makes of it."""
        how = {"cfg": self.cfg, "latent": self.latent(), "positive": self.positive,
               "negative": self.negative, "seed": 3, **how}  # fmt: skip
        if self.mask is not None:
            how["noise_mask"] = self.mask()
        return host.run(model, steps=steps, **how)


@dataclass
class WithOracle:
    """A clone of a model whose every call is the oracle's, with rows that a test dictates.

    Attributes:
        rows: of each evaluation, its active video rows.
        changed: how far the answers are from those of all rows, at most.
    """

    case: HostFamily
    rows: list[Any]
    oracles: dict[Any, Oracle] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)
    changed: float = 0.0

    def put(self, model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "oracle", self._call)
        return model

    def _call(self, executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        options = next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "uuids" in o)
        network = executor.class_obj
        key = tuple(options["cond_or_uncond"])
        index = self.counts.get(key, 0)
        self.counts[key] = index + 1
        if key not in self.oracles:
            self.oracles[key] = Oracle(host_family(self.case, network, x))

        def run(_: Any, ours: dict[str, Any]) -> Any:
            merged = {**options, **ours}
            given = [copied(x), *(merged if a is options else a for a in args)]
            return executor(*given, **{k: merged if a is options else a for k, a in kwargs.items()})

        call = SimpleNamespace(run=run)
        self.oracles[key].family = host_family(self.case, network, x)
        out = self.oracles[key].call(call, self.rows[index])
        bare = run(None, {})
        pairs = zip(parts(out), parts(bare), strict=True)
        self.changed = max(self.changed, *(float((a - b).abs().max()) for a, b in pairs))
        return out


def parts(out: Any) -> list[Tensor]:
    """The tensors of a latent or an answer."""
    nested = getattr(out, "tensors", out)
    return list(nested) if isinstance(nested, (list, tuple)) else [nested]


def copied(x: Any) -> Any:
    return [t.clone() for t in x] if isinstance(x, list) else x.clone()


def host_family(case: HostFamily, network: Any, x: Any) -> Family:
    """For the oracle: the video's rows are the last ones in every tensor."""
    adapter, declined = find_adapter(network)
    assert declined is None
    facts = adapter.facts(network)
    whole = adapter.layout(facts, adapter.video(x))
    tokens = case.frames * whole.spatial

    def last(_: str, stream: Tensor, __: Any) -> Tensor:
        # some have no dimension for the batch
        stream = stream[0] if isinstance(stream, tuple) else stream
        stream = stream if stream.ndim == 3 else stream[None]
        return stream[:, :tokens] if case.behind else stream[:, -tokens:]

    def held(_: str, stream: Tensor, __: Any) -> Tensor:
        if case.behind:
            return stream[:, tokens:]
        return stream[:, -tokens - case.before : stream.shape[1] - tokens]

    def keys(found: Tensor, _: Any) -> Tensor:
        rows = found.transpose(1, 2) if found.ndim == 4 else found
        return rows[:, :tokens] if case.behind else rows[:, -tokens:]

    return Family(
        adapter, network, tokens, lambda *_: None, tuple(case.hooks(network)), last, keys,
        sites=case.sites, held=held if case.before else None, name=case.tokens,
        own_call=case.own_call,
    )  # fmt: skip


def nested(*tensors: Tensor) -> Any:
    from comfy.nested_tensor import NestedTensor

    return NestedTensor(tensors)
