"""Token engine at the model around the network, for networks whose own calls are not enough: they
have no wrappers, keep something from call to call, or are not given the latents themselves."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motioncache_core import DeviceSessions, ModelCall
from ...motioncache_core.common.host_transfer import read
from ...motioncache_core.common.reasons import because
from ...motioncache_core.models.adapter import MODEL
from ...motioncache_core.models.wan_causal import NATIVE
from .compiled import plain
from .engine_choice import known_adapter
from .foreign import behind, foreign_code, note_of_partial
from .own_cache import BlockCalls
from .passes import BLOCK_CALLS, KEY, SESSION, passes_of
from .run_facts import window_of


def entered_here(network: Any, options: dict[str, Any]) -> bool:
    """Whether calls of a network are taken over at the model around it."""
    adapter = known_adapter(network)
    return adapter is not None and (adapter.of_call(network, options, {}) or adapter).entry == MODEL


def evaluate(executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
             control: Any = None, transformer_options: dict[str, Any] | None = None,
             **kwargs: Any) -> Tensor:  # fmt: skip
    """APPLY_MODEL: one call of such a model, by the session of its run."""
    options = transformer_options or {}
    state = options.get(NATIVE)
    caches = [] if state is None else state["kv_caches"]

    def run(ours: dict[str, Any]) -> Tensor:
        ends = [cache["end"] for cache in caches]
        try:
            out: Tensor = executor(x, t, c_concat, c_crossattn, control, ours, **kwargs)
        except BaseException:
            # what runs again, or what the host does next, finds them as they were
            for cache, end in zip(caches, ends, strict=True):
                cache["end"] = end
            raise
        return out

    session: DeviceSessions | None = options.get(SESSION)
    network = plain(executor.class_obj.diffusion_model)
    if session is None or torch.compiler.is_compiling() or not entered_here(network, options):
        return run(options)
    passes = passes_of(options, len(x))
    if not passes:
        return run(options)
    # what writes finished frames into the network's keys and values is never left out
    blocks: BlockCalls | None = options.get(BLOCK_CALLS)
    if state is None:
        written = False
    elif blocks is not None:
        written = blocks.writes
    else:
        # a sampler that is not the host's
        written = read(t.reshape(-1)[:1])[0] == 0
    return session.evaluate(
        ModelCall(
            network,
            run,
            x,
            t.float(),
            passes,
            options,
            window=window_of(options),
            foreign=foreign_code(known_adapter(network), network, options),
            partial_note=note_of_partial(options),
            behind=behind(options, WrappersMP.APPLY_MODEL, KEY),
            part=None if state is None else state["start_frame"],
            whole=because("cache_written") if written else None,
        )
    )
