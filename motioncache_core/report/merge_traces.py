"""The traces of one run's devices as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

from ..common.phrases import phrase, together
from .trace import EvaluationRecord, PlannedKeys, Trace

_BYTES = (
    "residual_bytes",
    "residual_host_bytes",
    "kv_bytes",
    "kv_host_bytes",
    "deciding_bytes",
    "answer_bytes",
)


def merge(into: Trace, trace: Trace, device: str) -> None:
    """Add what happened on another device.

    Where both have always decided alike, an evaluation gets the calls of both; else those of the
    other device are listed as a scope of their own.
    """
    for name in _BYTES:
        setattr(into, name, getattr(into, name) + getattr(trace, name))
    if into.grid is None:
        told = ("model", "distance", "grid", "chunks", "blocks", "row_work", "pair_work", "beside")
        for name in told:
            setattr(into, name, getattr(trace, name))
    _merge_planned(into, trace)
    into.decline(trace.reason)
    into.declined_calls += trace.declined_calls
    into.resets |= trace.resets
    for remark in trace.remarks:
        into.remark(remark)
    for sentence in trace.why:
        into.advise(sentence)
    for name in ("residual_reason", "kv_reason"):
        here, there = getattr(into, name), getattr(trace, name)
        if there and there != here:
            there = phrase("on {device}: {what}", device=device, what=there)
            setattr(into, name, together("; ", [here, there]) if here else there)
    into.kv_reasons += [r for r in trace.kv_reasons if r not in into.kv_reasons]
    alike = _by_moment(into)
    same = into.settings.get("cfg_mask") == "shared" and all(
        moment in alike and _decided(alike[moment]) == _decided(record)
        for moment, record in _by_moment(trace).items()
    )
    for moment, record in _by_moment(trace).items():
        if same:
            alike[moment].calls += record.calls
        else:
            scope = f"{record.scope}, {device}"
            into.evaluations.append(replace(record, index=len(into.evaluations), scope=scope))


def _merge_planned(into: Trace, trace: Trace) -> None:
    here, there = into.kv_planned, trace.kv_planned
    if here is None or there is None:
        into.kv_planned = here or there
        return
    into.kv_planned = PlannedKeys(
        here.nbytes + there.nbytes,
        here.host_bytes + there.host_bytes,
        here.prompts + there.prompts,
    )


def _decided(record: EvaluationRecord) -> list[tuple[str, str, int]]:
    # distances may differ in the last bits between devices
    return [(chunk.kind, chunk.phase, chunk.active) for chunk in record.chunks]


def _by_moment(trace: Trace) -> dict[Hashable, EvaluationRecord]:
    """The evaluations by what names them on every device."""
    seen: Counter[Hashable] = Counter()
    found: dict[Hashable, EvaluationRecord] = {}
    for record in trace.evaluations:
        moment = (record.scope, record.sigma, record.window, record.first_frame)
        seen[moment] += 1
        found[(moment, seen[moment])] = record
    return found
