"""A call of the network with our hooks in it, which may fail because of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import SettingsError
from ..sampling.model_call import ModelCall
from .block_hooks import BlockHooks
from .call_rows import NOT_HOOKED


def run_hooked(
    hooks: BlockHooks, call: ModelCall, stops: tuple[type[Exception], ...]
) -> Tensor | str:
    """What the network gives with the hooks in it, or what went wrong.

    Args:
        stops: exceptions by which the user ends a run.

    Raises:
        torch.OutOfMemoryError: nothing that is stored is left to give.
        SettingsError: the settings do not fit the run.
        Exception: one of `stops`, or any where only the engine can answer the call.
    """
    told: tuple[type[Exception], ...] = (torch.OutOfMemoryError, SettingsError, *stops)
    try:
        options = hooks.options(call.options)
        with hooks.running():
            out = call.run(options)
    except told:
        raise
    except Exception as error:
        # block-causal attention is only in the engine
        if call.causal:
            raise
        # its traceback holds what had been made
        return f"{type(error).__name__}: {error}"
    return hooks.failed or (out if hooks.rows.reached or call.causal else NOT_HOOKED)
