"""The ops as opaque `torch.library` ops: a compiled graph holds one node for each, and chooses the
back end when it runs, not when it is traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .registry import dispatch

SCHEMAS = {
    "motion_map": "(Tensor features, Tensor? previous) -> Tensor",
    "accumulate_due": "(Tensor(a!) accumulator, Tensor(b!) stale, Tensor distance, Tensor? weight, "
    "int frames, float threshold, float agreement, float min_update_ratio, int max_stale_steps) "
    "-> (Tensor, Tensor)",
    "compact_rows": "(Tensor mask) -> (Tensor, Tensor, Tensor)",
    "gather_rows": "(Tensor x, Tensor rows, int divisor) -> Tensor",
    "reuse_residual": "(Tensor x, Tensor residual, Tensor? slope, Tensor? gain) -> Tensor",
    "scatter_residual": "(Tensor x, Tensor new, Tensor inverse, Tensor(a!) residual, "
    "Tensor(b!)? slope, Tensor? gain, Tensor? inverse_interval) -> Tensor",
    "scatter_kv": "(Tensor k_new, Tensor v_new, Tensor rows, Tensor(a!) k_store, "
    "Tensor(b!) v_store) -> ()",
}

MUTATES = {
    "accumulate_due": ("accumulator", "stale"),
    "scatter_residual": ("residual", "slope"),
    "scatter_kv": ("k_store", "v_store"),
}


def _motion_map(features: Tensor, previous: Tensor | None) -> Tensor:
    return features.new_empty(features.shape[:3], dtype=torch.float32)


def _accumulate_due(accumulator: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    due = accumulator.new_empty(accumulator.shape, dtype=torch.uint8)
    return due, accumulator.new_empty((1,), dtype=torch.int32)


def _compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = mask.new_empty(mask.shape, dtype=torch.int32)
    return rows, torch.empty_like(rows), rows.new_empty((1,))


def _gather_rows(x: Tensor, rows: Tensor, divisor: int) -> Tensor:
    batch = rows.shape[0] if x.shape[0] == 1 else x.shape[0]
    return x.new_empty((batch, rows.shape[1], x.shape[2]))


def _like_x(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _nothing(*_: Any) -> None:
    return None


FAKES: dict[str, Callable[..., Any]] = {
    "motion_map": _motion_map,
    "accumulate_due": _accumulate_due,
    "compact_rows": _compact_rows,
    "gather_rows": _gather_rows,
    "reuse_residual": _like_x,
    "scatter_residual": _like_x,
    "scatter_kv": _nothing,
}


for _name, _schema in SCHEMAS.items():
    torch.library.custom_op(
        f"motioncache::{_name}",
        partial(dispatch, _name),
        mutates_args=MUTATES.get(_name, ()),
        schema=_schema,
    ).register_fake(FAKES[_name])


def call(name: str, *arguments: Any) -> Any:
    """Run op `name`; eager calls skip the dispatcher of torch, which costs 10 us and more."""
    if torch.compiler.is_compiling() or type(arguments[0]) is not Tensor:
        # looked up late: if the pack is loaded twice, the ops of the first copy are gone
        return getattr(torch.ops.motioncache, name).default(*arguments)
    return dispatch(name, *arguments)
