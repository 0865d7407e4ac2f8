"""Where the networks of known families pass: their tokens, computed or reused."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...motioncache_core import DeviceSessions, ForcingCall, ModelCall
from ...motioncache_core.common.host_transfer import upload
from . import model_entry
from .engine_choice import known_adapter
from .foreign import behind, foreign_code, note_of_partial
from .passes import FORCING, KEY, SESSION, passes_of
from .run_facts import window_of


def evaluate(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """DIFFUSION_MODEL: one call of the network, by the session of its run."""
    if torch.compiler.is_compiling():
        # the network is compiled as a whole, and code of this call would serve all others
        traced: Tensor = executor(x, timestep, *args, **kwargs)
        return traced
    options = next(
        (a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "sigmas" in a), None
    )
    session: DeviceSessions | None = None if options is None else options.get(SESSION)
    if session is None or options is None:
        # called outside of a sampler that was wrapped
        out: Tensor = executor(x, timestep, *args, **kwargs)
        return out
    passes = passes_of(options, len(x if isinstance(x, Tensor) else x[0]))
    if not passes:
        untouched: Tensor = executor(x, timestep, *args, **kwargs)
        return untouched
    network = executor.class_obj
    if model_entry.entered_here(network, options):
        inside: Tensor = executor(x, timestep, *args, **kwargs)
        return inside
    adapter = known_adapter(network)
    forcing: ForcingCall | None = options.get(FORCING)
    if forcing is not None and adapter is not None:
        levels = upload(forcing.sigmas, x.device) * adapter.timestep_scale
        timestep = levels.expand(x.shape[0], -1)

    def run(ours: dict[str, Any]) -> Tensor:
        swapped = [ours if a is options else a for a in args]
        named = {k: ours if a is options else a for k, a in kwargs.items()}
        result: Tensor = executor(x, timestep, *swapped, **named)
        return result

    names = () if adapter is None else adapter.positional
    foreign = None if adapter is None else foreign_code(adapter, network, options)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    call = ModelCall(
        network, run, x, timestep, passes, options, arguments, forcing, window_of(options),
        foreign, note_of_partial(options), behind(options, WrappersMP.DIFFUSION_MODEL, KEY),
    )  # fmt: skip
    velocity = session.evaluate(call)
    return velocity if forcing is None else _as_seen_by_host(velocity, forcing)


def _as_seen_by_host(velocity: Tensor, forcing: ForcingCall) -> Tensor:
    """The velocity that makes `x - level * velocity` the prediction of every frame.

    The host knows one noise level. Frames that are not being denoised are told to stay.
    """
    share = upload(forcing.active_sigmas, velocity.device) / forcing.level
    share = share[:, None, None]
    return torch.where(share > 0, velocity.float() * share, 0.0)
