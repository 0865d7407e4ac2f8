"""Argument checks of the public ops; messages tell what was given, what is allowed, what to do."""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})


def shape(op: str, name: str, tensor: Tensor, symbols: str, *sizes: int) -> None:
    """Raise unless `tensor` has `sizes`; -1 is any size."""
    given = tensor.shape
    if given == sizes:
        return
    if len(given) == len(sizes):
        for actual, size in zip(given, sizes, strict=True):
            if size not in (-1, actual):
                break
        else:
            return
    wanted = ["any" if size == -1 else size for size in sizes]
    raise ValueError(
        f"{op}: {name} has shape {list(given)}; it must be {symbols} = {wanted}. "
        "Pass tensors that belong to the same batch rows, tokens and channels."
    )


def rows(op: str, name: str, tensor: Tensor, batch: int, length: int, symbols: str) -> None:
    """Raise unless `tensor` is an int32 row list [1 or batch, length]; -1 is any size."""
    dtype(op, name, tensor, torch.int32)
    given = tensor.shape
    if (
        len(given) != 2
        or (length != -1 and given[1] != length)
        or not (given[0] == 1 or batch in (-1, given[0]))
    ):
        raise ValueError(
            f"{op}: {name} has shape {list(given)}; it must be {symbols} with 1 or {batch} lists"
            f"{'' if length == -1 else f' of {length} entries'}. Share one list between all batch "
            "rows with list[None], or pass one list for each."
        )


def dtype(op: str, name: str, tensor: Tensor, *allowed: torch.dtype) -> None:
    if tensor.dtype not in allowed:
        told = " or ".join(map(str, allowed))
        raise ValueError(
            f"{op}: {name} is {tensor.dtype}; it must be {told}. "
            f"Convert it with {name}.to({allowed[0]})."
        )


def floating(op: str, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or tensor.dtype in FP8:
        raise ValueError(
            f"{op}: {name} is {tensor.dtype}; it must be float32, bfloat16, float16 or float64. "
            f"Convert it with {name}.to(torch.float32)."
        )


def contiguous(op: str, name: str, tensor: Tensor, *, written: bool = False) -> None:
    if not tensor.is_contiguous():
        advice = (
            "It is written in place, so a copy would be lost: allocate it contiguous."
            if written
            else f"Pass {name}.contiguous()."
        )
        raise ValueError(
            f"{op}: {name} has strides {list(tensor.stride())} for shape {list(tensor.shape)}; "
            f"it must be contiguous. {advice}"
        )


def device(op: str, first: Tensor, **others: Tensor | None) -> None:
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}, the first argument on {first.device}; all "
                f"tensors must be on one device. Move it with {name}.to('{first.device}')."
            )


def together(op: str, **given: Tensor | None) -> None:
    """Raise if some, but not all, of the arguments are None."""
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) != len(given):
        raise ValueError(
            f"{op}: {', '.join(missing)} not given; {', '.join(given)} belong together. "
            "Pass all of them to forecast, or none."
        )


def between(op: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{op}: {name} is {value}; choose a value from {low} to {high}.")
