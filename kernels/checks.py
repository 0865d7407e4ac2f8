"""Argument checks of the public ops; messages tell what was given, what is allowed, what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .library import CODES

FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
# answers that kernels have weights for
MOST_ANSWERS = 4


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


def per_token(op: str, name: str, tensor: Tensor | None, x: Tensor) -> Tensor | None:
    if tensor is None:
        return None
    shape(op, name, tensor, "[L]", x.shape[1])
    dtype(op, name, tensor, torch.float32)
    return tensor.contiguous()


def twin(op: str, k_store: Tensor, v_store: Tensor) -> None:
    shape(op, "v_store", v_store, "[B, L, C]", *k_store.shape)
    device(op, k_store, v_store=v_store)


def coded_stores(
    op: str,
    k_store: Tensor,
    v_store: Tensor,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    *,
    written: bool,
) -> tuple[Tensor, Tensor]:
    """The scales of stores of 8 bits, once they are known to belong to these."""
    for name, tensor in (("k_store", k_store), ("v_store", v_store)):
        if tensor.dtype not in CODES:
            raise ValueError(
                f"{op}: {name} is {tensor.dtype}, and scales are given; they belong to "
                "torch.float8_e4m3fn and int8. Pass stores of these dtypes, or no scales."
            )
    if k_scale is None or v_scale is None:
        raise ValueError(
            f"{op}: k_store is {k_store.dtype}, and k_scale or v_scale is None. Pass both, "
            "[B, L, heads] float32; without a scale the codes would be cut off."
        )
    twin(op, k_store, v_store)
    batch, length, channels = k_store.shape
    shape(op, "k_scale", k_scale, "[B, L, heads]", batch, length, -1)
    heads = k_scale.shape[2]
    shape(op, "v_scale", v_scale, "[B, L, heads]", batch, length, heads)
    if heads < 1 or channels % heads:
        raise ValueError(
            f"{op}: k_scale has {heads} heads, and {channels} channels are no multiple of that. "
            "Give it as many scales a token as the attention has heads."
        )
    device(op, k_store, k_scale=k_scale, v_scale=v_scale)
    for name, tensor in (("k_scale", k_scale), ("v_scale", v_scale)):
        dtype(op, name, tensor, torch.float32)
        contiguous(op, name, tensor, written=written)
    for name, tensor in (("k_store", k_store), ("v_store", v_store)):
        contiguous(op, name, tensor, written=written)
    return k_scale, v_scale


def weighted_answers(
    op: str, x: Tensor, answers: Tensor, weights: Sequence[float], *, written: bool = False
) -> list[float]:
    """The weights as floats, once they are known to belong to the answers, and those to x."""
    floating(op, "x", x)
    contiguous(op, "x", x)
    shape(op, "answers", answers, "[K, *x.shape]", -1, *x.shape)
    between(op, "K, the number of answers,", answers.shape[0], 1, MOST_ANSWERS)
    dtype(op, "answers", answers, torch.float32)
    contiguous(op, "answers", answers, written=written)
    device(op, x, answers=answers)
    if len(weights) != answers.shape[0]:
        raise ValueError(
            f"{op}: {len(weights)} weights are given for {answers.shape[0]} answers; there must be "
            "one for each. Pass 0 for an answer that is not to be read."
        )
    return [float(weight) for weight in weights]
