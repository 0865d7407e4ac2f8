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
    "select_top": "(Tensor score, Tensor count) -> Tensor",
    "gather_rows": "(Tensor x, Tensor rows, Tensor? rotary, Tensor? modulation, int divisor) "
    "-> (Tensor, Tensor, Tensor)",
    "reuse_residual": "(Tensor x, Tensor residual, Tensor? slope, Tensor? gain) -> Tensor",
    "scatter_residual": "(Tensor x, Tensor new, Tensor inverse, Tensor(a!) residual, "
    "Tensor(b!)? slope, Tensor? gain, Tensor? inverse_interval) -> Tensor",
    "store_residual": "(Tensor x, Tensor y, Tensor(a!) residual, Tensor(b!)? slope, "
    "Tensor? inverse_interval) -> ()",
    "correct_rows": "(Tensor pred, Tensor new, Tensor rows, Tensor targets, Tensor sources, "
    "Tensor weight) -> Tensor",
    "scatter_kv": "(Tensor k_new, Tensor v_new, Tensor rows, Tensor(a!) k_store, "
    "Tensor(b!) v_store, Tensor(c!)? k_scale, Tensor(d!)? v_scale) -> ()",
    "read_kv": "(Tensor k_store, Tensor v_store, Tensor k_scale, Tensor v_scale, "
    "ScalarType dtype, int length) -> (Tensor, Tensor)",
}

MUTATES = {
    "accumulate_due": ("accumulator", "stale"),
    "scatter_residual": ("residual", "slope"),
    "store_residual": ("residual", "slope"),
    "scatter_kv": ("k_store", "v_store", "k_scale", "v_scale"),
}


def _motion_map(features: Tensor, previous: Tensor | None) -> Tensor:
    return features.new_empty(features.shape[:3], dtype=torch.float32)


def _accumulate_due(accumulator: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    due = accumulator.new_empty(accumulator.shape, dtype=torch.uint8)
    return due, accumulator.new_empty((1,), dtype=torch.int32)


def _compact_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = mask.new_empty(mask.shape, dtype=torch.int32)
    return rows, torch.empty_like(rows), rows.new_empty((1,))


def _select_top(score: Tensor, count: Tensor) -> Tensor:
    return score.new_empty(score.shape, dtype=torch.uint8)


def _gather_rows(
    x: Tensor, rows: Tensor, rotary: Tensor | None, modulation: Tensor | None, divisor: int
) -> tuple[Tensor, Tensor, Tensor]:
    lists, count = rows.shape

    def picked(source: Tensor | None) -> Tensor:
        if source is None:
            return x.new_empty(0)
        return source.new_empty((max(source.shape[0], lists), count, source.shape[2]))

    return picked(x), picked(rotary), picked(modulation)


def _like_x(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _correct_rows(pred: Tensor, new: Tensor, rows: Tensor, targets: Tensor, *_: Any) -> Tensor:
    return pred.new_empty((pred.shape[0], targets.shape[0], pred.shape[2]))


def _read_kv(
    k_store: Tensor, v_store: Tensor, k_scale: Tensor, v_scale: Tensor, dtype: Any, length: int
) -> tuple[Tensor, Tensor]:
    k = k_store.new_empty((k_store.shape[0], length, k_store.shape[2]), dtype=dtype)
    return k, torch.empty_like(k)


def _nothing(*_: Any) -> None:
    return None


FAKES: dict[str, Callable[..., Any]] = {
    "motion_map": _motion_map,
    "accumulate_due": _accumulate_due,
    "compact_rows": _compact_rows,
    "select_top": _select_top,
    "gather_rows": _gather_rows,
    "reuse_residual": _like_x,
    "scatter_residual": _like_x,
    "store_residual": _nothing,
    "correct_rows": _correct_rows,
    "scatter_kv": _nothing,
    "read_kv": _read_kv,
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
