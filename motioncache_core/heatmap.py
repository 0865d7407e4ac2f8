"""A trace as pictures: the motion map per latent frame, and the timeline of a run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import MotionCacheError, NoMapError
from .policy import DENSE, REUSE
from .report import explain
from .trace import EvaluationRecord, Trace

Floats = npt.NDArray[np.float32]

VIEWS = ("motion", "updates", "staleness", "active")

# anchors of perceptually uniform maps, interpolated linearly in between
_ANCHORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "magma": (
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ),
    "viridis": (
        (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
        (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
    ),
    "gray": ((0, 0, 0), (255, 255, 255)),
}  # fmt: skip
COLORMAPS = tuple(_ANCHORS)


def colourise(values: Floats, colormap: str) -> Floats:
    """Values in 0..1 to RGB in 0..1, shape `(..., 3)`."""
    if colormap not in _ANCHORS:
        allowed = ", ".join(map(repr, COLORMAPS))
        raise MotionCacheError(f"colormap is {colormap!r}; allowed are {allowed}")
    table = np.asarray(_ANCHORS[colormap], dtype=np.float32) / 255
    at = np.linspace(0, 1, len(table))
    channels = [np.interp(values, at, table[:, i]) for i in range(3)]
    rgb: Floats = np.stack(channels, axis=-1).astype(np.float32)
    return rgb


def values(trace: Trace, view: str, step: int = -1) -> Floats:
    """The map of one evaluation, `(F, h, w)` in 0..1.

    Args:
        view: "motion" the motion weight, 1 where it is largest; "updates" how often a token was
            computed up to `step`, as a share of the evaluations its chunk was at work in;
            "staleness" such evaluations since it was computed,
            1 for the stalest; "active" 1 where it was computed in this very evaluation.
        step: evaluation index; negative ones count from the end. For "motion" -1 is the last
            evaluation that weighed tokens.

    Raises:
        NoMapError: no such evaluation, or it has no map of this kind; says why.
        MotionCacheError: no such view.
    """
    if view not in VIEWS:
        raise MotionCacheError(f"view is {view!r}; allowed are {', '.join(map(repr, VIEWS))}")
    if trace.grid is None or not trace.evaluations:
        raise NoMapError(f"there is nothing to show: {explain(trace)}")
    records = _of_first_scope(trace)
    # after a change of size or place in mid-run only evaluations like the last one fit the grid
    place = (records[-1].window, records[-1].first_chunk)
    records = [
        r
        for r in records
        if (r.window, r.first_chunk) == place and sum(c.tokens for c in r.chunks) == trace.tokens
    ]
    if view == "motion":
        return _motion(trace, records, step)
    index = _index(step, len(records))
    masks = np.stack([trace.active_mask(r.index) for r in records[: index + 1]])
    if view == "active":
        flat = masks[-1].astype(np.float32)
    elif view == "updates":
        busy = np.stack([_busy(r) for r in records[: index + 1]]).sum(axis=0)
        flat = (masks.sum(axis=0) / np.maximum(busy, 1)).astype(np.float32)
    else:
        age = np.zeros(trace.tokens, dtype=np.float32)
        for mask, record in zip(masks, records, strict=False):
            age = np.where(mask, 0, age + _busy(record)).astype(np.float32)
        flat = age / max(1.0, float(age.max()))
    out: Floats = flat.reshape(trace.grid)
    return out


def render(
    trace: Trace,
    view: str = "motion",
    step: int = -1,
    colormap: str = "magma",
    images: Tensor | None = None,
    opacity: float = 0.6,
    pixels: int = 16,
) -> Tensor:
    """One picture per latent frame, `(F, H, W, 3)` in 0..1.

    Args:
        images: decoded frames `(N, H, W, 3)` to lay the map over, spread evenly over the clip's
            latent frames; without them each token becomes a square of `pixels`.
        opacity: 0 shows only the images, 1 only the map.
    """
    maps = torch.from_numpy(colourise(values(trace, view, step), colormap))
    if images is None:
        return maps.repeat_interleave(pixels, dim=1).repeat_interleave(pixels, dim=2)
    if images.ndim != 4 or images.shape[-1] < 3:
        raise MotionCacheError(
            f"images have shape {tuple(images.shape)}; connect decoded frames (N, H, W, 3)"
        )
    # the last window of a longer clip ends where the clip does
    start = _of_first_scope(trace)[-1].first_frame
    frames = start + maps.shape[0]
    at = torch.linspace(0, images.shape[0] - 1, frames).round().long()[start:]
    under = images[at, ..., :3].float().cpu()
    over = torch.nn.functional.interpolate(
        maps.permute(0, 3, 1, 2), size=under.shape[1:3], mode="nearest"
    ).permute(0, 2, 3, 1)
    return under * (1 - opacity) + over * opacity


def timeline(trace: Trace, cell: int = 16) -> Tensor:
    """Chunks down, evaluations across, `(1, H, W, 3)`.

    A cell is filled from the bottom by the share of its tokens that was computed: full for
    dense, empty for reused. A chunk that is not at work has no cell.
    """
    back, gap = (0.13, 0.13, 0.15), 2
    colour = {DENSE: (0.98, 0.53, 0.38), REUSE: (0.2, 0.2, 0.24)}
    records = _of_first_scope(trace)
    rows = max((r.first_chunk + len(r.chunks) for r in records), default=1)
    picture = torch.tensor(back).expand(rows * (3 * cell), max(1, len(records)) * cell, 3).clone()
    for column, record in enumerate(records):
        for row, chunk in enumerate(record.chunks, start=record.first_chunk):
            if chunk.idle:
                continue
            left, top, bottom = column * cell, row * 3 * cell + gap, (row + 1) * 3 * cell - gap
            box = picture[top:bottom, left + gap // 2 : left + cell - gap // 2]
            box[:] = torch.tensor(colour[REUSE])
            filled = round((bottom - top) * chunk.active / chunk.tokens)
            if filled:
                shade = colour.get(chunk.kind, (0.71, 0.31, 0.62))
                box[bottom - top - filled :] = torch.tensor(shade)
    return picture[None]


def _of_first_scope(trace: Trace) -> list[EvaluationRecord]:
    # with separate decisions per branch the maps of one branch are shown, not a mixture
    scope = trace.evaluations[0].scope if trace.evaluations else ""
    return [e for e in trace.evaluations if e.scope == scope]


def _busy(record: EvaluationRecord) -> npt.NDArray[np.bool_]:
    # chunks that had not started or were finished are neither updated nor stale
    return np.concatenate([np.full(c.tokens, not c.idle) for c in record.chunks])


def _index(step: int, count: int) -> int:
    if not -count <= step < count:
        raise NoMapError(
            f"step is {step}; the run had {count} evaluations, so 0 to {count - 1} or -1 for the "
            "last are allowed"
        )
    return step % count


def _why_no_motion(trace: Trace) -> str:
    policy = trace.settings.get("policy")
    if policy not in ("motion", "random"):
        return f"policy {policy!r} does not weigh tokens. Choose view 'updates'"
    if trace.reason:
        return trace.reason
    if trace.kv_bytes + trace.kv_host_bytes == 0 and trace.kv_reason:
        return trace.kv_reason
    return (
        "the run never reached the motion phase. Lower warmup_steps or uniform_updates, raise the "
        "number of steps, or choose view 'updates'"
    )


def _motion(trace: Trace, records: list[EvaluationRecord], step: int) -> Floats:
    with_map = [i for i, r in enumerate(records) if r.weight is not None]
    if not with_map:
        raise NoMapError(f"no motion map was made: {_why_no_motion(trace)}")
    index = with_map[-1] if step == -1 else _index(step, len(records))
    weight = records[index].weight
    if weight is None:
        raise NoMapError(
            f"evaluation {index} has no motion map; the motion phase covers "
            f"{with_map[0]} to {with_map[-1]}"
        )
    floor = 1.0 - float(trace.settings["motion_sensitivity"])
    w = weight.astype(np.float32) / 255
    span = max(1.0 - floor, 1e-6)
    shown = np.clip((w - floor) / span, 0, 1).reshape(trace.grid or (1, 1, -1))
    return shown.astype(np.float32)
