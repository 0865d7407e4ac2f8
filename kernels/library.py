"""The ops as opaque `torch.library` ops: a compiled graph holds one node for each, and chooses the
back end when it runs, not when it is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .registry import dispatch

Function = TypeVar("Function", bound=Callable[..., Any])
Dtypes = Mapping[str, frozenset[torch.dtype]]

# what kernels take for an argument, beside which the reference takes float64
FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
CODES = frozenset({torch.float8_e4m3fn, torch.int8})

# by op; an argument that is not listed has one dtype, which the op checks
KERNEL_DTYPES: dict[str, Dtypes] = {}


def define(
    schema: str,
    *,
    fake: Callable[..., Any],
    mutates: tuple[str, ...] = (),
    kernel_dtypes: Dtypes | None = None,
) -> Callable[[Function], Function]:
    """Make the op `motioncache::<name>` for a public function, and leave the function as it is.

    Args:
        schema: the function's parameters in their order, and the results.
        fake: empty results of the right shape, from the same arguments.
        mutates: the arguments that are written in place.
        kernel_dtypes: what kernels take, by parameter.
    """

    def defined(function: Function) -> Function:
        name = function.__name__
        torch.library.custom_op(
            f"motioncache::{name}", partial(dispatch, name), mutates_args=mutates, schema=schema
        ).register_fake(fake)
        KERNEL_DTYPES[name] = kernel_dtypes or {}
        return function

    return defined


def run_op(name: str, *arguments: Any) -> Any:
    """Run op `name`; eager calls skip the dispatcher of torch, which costs 10 us and more."""
    if torch.compiler.is_compiling() or type(arguments[0]) is not Tensor:
        # looked up late: if the pack is loaded twice, the ops of the first copy are gone
        return getattr(torch.ops.motioncache, name).default(*arguments)
    return dispatch(name, *arguments)
