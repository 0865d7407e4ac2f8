"""A trace as pictures: the motion map per latent frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import MotionCacheError, NoMapError
from ..common.reasons import because
from ..settings import POLICIES, Policy
from .colours import Floats, colourise
from .explain import explain
from .trace import EvaluationRecord, Trace

VIEWS = ("motion", "updates", "staleness", "active")
UPSCALES = ("nearest", "smooth")


def values(trace: Trace, view: str, step: int = -1, oldest: int | None = None) -> Floats:
    """The map of one evaluation, `(F, h, w)` in 0..1.

    Args:
        view: "motion" the motion weight, 1 where it is largest; "updates" how often a token was
            computed up to `step`, as a share of the evaluations its chunk was at work in;
            "staleness" such evaluations since it was computed,
            1 for the stalest; "active" 1 where it was computed in this very evaluation.
        step: evaluation index; negative ones count from the end. For "motion" -1 is the last
            evaluation that weighed tokens.
        oldest: the staleness shown as 1, in evaluations; the largest one here unless given.

    Raises:
        NoMapError: no such evaluation, or it has no map of this kind; says why.
        MotionCacheError: no such view.
    """
    records = _shown(trace, view)
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
        age = _ages(trace, records[: index + 1])
        top = float(age.max()) if oldest is None else oldest
        flat = age / max(1.0, top)
    out: Floats = flat.reshape(trace.grid or (1, 1, -1))
    return out


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours of a view mean: `low` is 0, `high` is 1."""

    title: str
    low: str
    high: str


def scale(trace: Trace, view: str, oldest: int) -> Scale:
    """The legend of a view.

    Args:
        oldest: as given to `values`.
    """
    if view == "motion":
        if _by_change(trace):
            return Scale("rate of change", "0.00", "1.00")
        floor = 1.0 - float(trace.settings["motion_sensitivity"])
        return Scale("motion weight", f"{floor:.2f}", "1.00")
    if view == "updates":
        return Scale("evaluations it was computed in", "0%", "100%")
    if view == "staleness":
        return Scale("evaluations since it was computed", "0", str(max(1, oldest)))
    return Scale("computed in this evaluation", "no", "yes")


def mapped_steps(trace: Trace, view: str) -> list[int]:
    """The evaluations that have a map, as `values` counts them; at least one.

    Raises:
        NoMapError: there are none; says why.
        MotionCacheError: no such view.
    """
    records = _shown(trace, view)
    if view != "motion":
        return list(range(len(records)))
    found = [i for i, r in enumerate(records) if r.weight is not None]
    if not found:
        raise NoMapError(f"no motion map was made: {_why_no_motion(trace)}")
    return found


def which_step(trace: Trace, view: str, step: int) -> int:
    """The evaluation that `values` shows for `step`; see there for what it raises."""
    records = _shown(trace, view)
    if view == "motion" and step == -1:
        return mapped_steps(trace, view)[-1]
    return _index(step, len(records))


def oldest_at(trace: Trace, steps: Sequence[int]) -> int:
    """The largest staleness in any of these evaluations."""
    records = _shown(trace, "staleness")
    return max(int(_ages(trace, records[: step + 1]).max()) for step in steps)


def first_frame(trace: Trace) -> int:
    """Where the last window of a longer clip starts, in latent frames."""
    return of_first_scope(trace)[-1].first_frame


def _shown(trace: Trace, view: str) -> list[EvaluationRecord]:
    if view not in VIEWS:
        raise MotionCacheError(f"view is {view!r}; allowed are {', '.join(map(repr, VIEWS))}")
    return shown_evaluations(trace)


def shown_evaluations(trace: Trace) -> list[EvaluationRecord]:
    """The evaluations that fit the last one's grid, as `values` counts them.

    Raises:
        NoMapError: there are none; says why.
    """
    if trace.grid is None or not trace.evaluations:
        raise NoMapError(f"there is nothing to show: {explain(trace)}")
    records = of_first_scope(trace)
    # after a change of size or place in mid-run only evaluations like the last one fit the grid
    place = (records[-1].window, records[-1].first_chunk)
    return [
        r
        for r in records
        if (r.window, r.first_chunk) == place and sum(c.tokens for c in r.chunks) == trace.tokens
    ]


def _ages(trace: Trace, records: Sequence[EvaluationRecord]) -> Floats:
    """Evaluations of its chunk since each token `(L,)` was computed."""
    age = np.zeros(trace.tokens, dtype=np.float32)
    for record in records:
        busy = _busy(record)
        age = np.where(trace.active_mask(record.index), 0, age + busy).astype(np.float32)
    return age


def render(
    trace: Trace,
    view: str = "motion",
    step: int = -1,
    colormap: str = "magma",
    images: Tensor | None = None,
    opacity: float = 0.6,
    pixels: int = 16,
    oldest: int | None = None,
    upscale: str = "nearest",
) -> Tensor:
    """One picture per latent frame, `(F, H, W, 3)` in 0..1; of the first of several context
    windows.

    Args:
        images: decoded frames `(N, H, W, 3)` to lay the map over; without them each token becomes
            a square of `pixels`.
        opacity: 0 shows only the images, 1 only the map.
        oldest: see `values`.
        upscale: "nearest" keeps the tokens' edges, "smooth" is bilinear between their centres.
    """
    if upscale not in UPSCALES:
        allowed = ", ".join(map(repr, UPSCALES))
        raise MotionCacheError(f"upscale is {upscale!r}; allowed are {allowed}")
    found = values(trace, view, step, oldest)
    height, width = found.shape[1:]
    if images is None:
        return _upscaled(found, colormap, (height * pixels, width * pixels), upscale)
    under = frames_below(trace, images)
    over = _upscaled(found, colormap, (under.shape[1], under.shape[2]), upscale)
    return under * (1 - opacity) + over * opacity


def frames_below(trace: Trace, images: Tensor) -> Tensor:
    """The decoded frame that belongs to each latent frame shown, `(F, H, W, 3)`.

    Args:
        images: `(N, H, W, 3)` or more channels, spread evenly over the clip's latent frames.

    Raises:
        MotionCacheError: images of another shape.
    """
    if images.ndim != 4 or images.shape[-1] < 3:
        raise MotionCacheError(
            f"images have shape {tuple(images.shape)}; connect decoded frames (N, H, W, 3)"
        )
    # the last window of a longer clip ends where the clip does
    start = first_frame(trace)
    count = 1 if trace.grid is None else trace.grid[0]
    frames = max(start + count, trace.clip_frames)
    at = torch.linspace(0, images.shape[0] - 1, frames).round().long()[start : start + count]
    return images[at, ..., :3].float().cpu()


def _upscaled(found: Floats, colormap: str, size: tuple[int, int], upscale: str) -> Tensor:
    """Colours `(F, *size, 3)` of values `(F, h, w)`."""
    if upscale == "smooth":
        # the values are interpolated: colours in between would not be on the colour bar
        wide = torch.nn.functional.interpolate(
            torch.from_numpy(found)[:, None], size=size, mode="bilinear", align_corners=False
        )
        return torch.from_numpy(colourise(wide[:, 0].numpy(), colormap))
    maps = torch.from_numpy(colourise(found, colormap)).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(maps, size=size, mode="nearest").permute(0, 2, 3, 1)


def of_first_scope(trace: Trace) -> list[EvaluationRecord]:
    """The evaluations of one scope: decisions of several branches are not to be mixed."""
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
    policy = trace.settings.get("policy", "")
    if not POLICIES.get(policy, Policy()).per_token:
        return because("map_policy", policy=policy)
    if trace.reason:
        return trace.reason
    if trace.kv_bytes + trace.kv_host_bytes == 0 and trace.kv_reason:
        return trace.kv_reason
    return because("map_phase")


def _motion(trace: Trace, records: list[EvaluationRecord], step: int) -> Floats:
    with_map = mapped_steps(trace, "motion")
    index = with_map[-1] if step == -1 else _index(step, len(records))
    weight = records[index].weight
    if weight is None:
        raise NoMapError(
            f"evaluation {index} has no motion map; the motion phase covers "
            f"{with_map[0]} to {with_map[-1]}"
        )
    sensitivity = float(trace.settings["motion_sensitivity"])
    w = weight.astype(np.float32) / 255
    if _by_change(trace):
        # the weight is a power of it, which hides how far apart tokens are
        shown = w ** (1 / max(sensitivity, 0.1))
    else:
        shown = np.clip((w - (1.0 - sensitivity)) / max(sensitivity, 1e-6), 0, 1)
    return shown.reshape(trace.grid or (1, 1, -1)).astype(np.float32)


def _by_change(trace: Trace) -> bool:
    return trace.settings.get("motion_source") == "residual"
