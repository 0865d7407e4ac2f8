"""A trace as pictures: the motion map per latent frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import MotionCacheError, NoMapError
from ..common.phrases import phrase
from ..common.reasons import because
from ..settings import POLICIES, Policy
from .colours import Floats, colourise
from .run_summary import RunSummary
from .trace import EvaluationRecord, Trace

VIEWS = ("motion", "updates", "staleness", "active")
UPSCALES = ("nearest", "smooth")
Numbers = npt.NDArray[Any]


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
    return next(maps(trace, view, [step]))


def maps(trace: Trace, view: str, steps: Sequence[int]) -> Iterator[Floats]:
    """The `values` of several evaluations from the first to the last of them, in one pass over
    the run. The stalest token of them all is 1."""
    records = _shown(trace, view)
    found = (_weights if view == "motion" else _past)(trace, view, records, steps)
    top = max(1, _oldest(trace, records, steps)) if view == "staleness" else 1
    for flat in found:
        yield (flat / top).astype(np.float32).reshape(trace.grid or (1, 1, -1))


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours of a view mean: `low` is 0, `high` is 1."""

    title: str
    low: str
    high: str


def scale(trace: Trace, view: str, steps: Sequence[int]) -> Scale:
    """The legend of the `maps` of these evaluations."""
    if view == "motion":
        if _answers(trace):
            return Scale("change of the model's answer", "0.00", "1.00")
        if _by_change(trace):
            return Scale("rate of change", "0.00", "1.00")
        floor = 1.0 - float(trace.settings["motion_sensitivity"])
        return Scale("motion weight", f"{floor:.2f}", "1.00")
    if view == "updates":
        return Scale("evaluations it was computed in", "0%", "100%")
    if view == "staleness":
        oldest = max(1, _oldest(trace, shown_evaluations(trace), steps))
        return Scale("evaluations since it was computed", "0", str(oldest))
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
        raise NoMapError(phrase("no motion map was made: {why}", why=_why_no_motion(trace)))
    return found


def which_step(trace: Trace, view: str, step: int) -> int:
    """The evaluation that `values` shows for `step`; see there for what it raises."""
    records = _shown(trace, view)
    if view == "motion" and step == -1:
        return mapped_steps(trace, view)[-1]
    return _index(step, len(records))


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
        raise NoMapError(phrase("there is nothing to show: {why}", why=RunSummary(trace).why))
    records = of_first_scope(trace)
    # after a change of size or place in mid-run only evaluations like the last one fit the grid
    place = (records[-1].window, records[-1].first_chunk)
    return [r for r in records if (r.window, r.first_chunk) == place and r.tokens == trace.tokens]


def _past(
    trace: Trace, view: str, records: Sequence[EvaluationRecord], steps: Sequence[int]
) -> Iterator[Numbers]:
    """Of each token `(L,)`; see `values`."""
    wanted = {_index(step, len(records)) for step in steps}
    computed, at_work, age = np.zeros((3, trace.tokens), dtype=np.int64)
    for index, record in enumerate(records[: max(wanted) + 1]):
        active = trace.active_mask(record.index)
        # chunks that had not started or were finished are neither updated nor stale
        busy = record.each_row(not c.idle for c in record.chunks)
        computed += active
        at_work += busy
        age = np.where(active, 0, age + busy)
        if index in wanted:
            shares = computed / np.maximum(at_work, 1)
            yield {"active": active, "updates": shares, "staleness": age}[view]


def _oldest(trace: Trace, records: Sequence[EvaluationRecord], steps: Sequence[int]) -> int:
    return max(int(age.max()) for age in _past(trace, "staleness", records, steps))


def render(
    trace: Trace,
    view: str = "motion",
    step: int = -1,
    colormap: str = "magma",
    images: Tensor | None = None,
    opacity: float = 0.6,
    pixels: int = 16,
    upscale: str = "nearest",
) -> Tensor:
    """One picture per latent frame, `(F, H, W, 3)` in 0..1; of the first of several context
    windows.

    Args:
        images: decoded frames `(N, H, W, 3)` to lay the map over; without them each token becomes
            a square of `pixels`.
        opacity: 0 shows only the images, 1 only the map.
        upscale: "nearest" keeps the tokens' edges, "smooth" is bilinear between their centres.
    """
    return render_steps(trace, view, [step], colormap, images, opacity, pixels, upscale)[0]


def render_steps(
    trace: Trace,
    view: str,
    steps: Sequence[int],
    colormap: str,
    images: Tensor | None,
    opacity: float,
    pixels: int = 16,
    upscale: str = "nearest",
) -> list[Tensor]:
    """The same for the `maps` of several evaluations."""
    if upscale not in UPSCALES:
        allowed = ", ".join(map(repr, UPSCALES))
        raise MotionCacheError(f"upscale is {upscale!r}; allowed are {allowed}")
    found = list(maps(trace, view, steps))
    under = None if images is None else frames_below(trace, images)
    height, width = (n * pixels for n in found[0].shape[1:]) if under is None else under.shape[1:3]
    over = [_upscaled(shown, colormap, (height, width), upscale) for shown in found]
    return over if under is None else [under * (1 - opacity) + o * opacity for o in over]


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


def _index(step: int, count: int) -> int:
    if not -count <= step < count:
        raise NoMapError(
            phrase(
                "step is {step}; the run had {count}, so 1 to {count} are allowed, or -1 for the "
                "last",
                step=step + (step >= 0),
                count=count,
            )
        )
    return step % count


def _why_no_motion(trace: Trace) -> str:
    policy = trace.settings.get("policy", "")
    traits = POLICIES.get(policy, Policy())
    if traits.answers:
        return trace.reason or because("map_answers")
    if not traits.per_token:
        return because("map_policy", policy=policy)
    if trace.reason:
        return trace.reason
    if trace.kv_bytes + trace.kv_host_bytes == 0 and trace.kv_reason:
        return trace.kv_reason
    return because("map_phase")


def _weights(
    trace: Trace, view: str, records: Sequence[EvaluationRecord], steps: Sequence[int]
) -> Iterator[Numbers]:
    with_map = mapped_steps(trace, view)
    sensitivity = float(trace.settings["motion_sensitivity"])
    for step in steps:
        index = with_map[-1] if step == -1 else _index(step, len(records))
        weight = records[index].weight
        if weight is None:
            raise NoMapError(
                phrase(
                    "step {step} has no motion map; the first is that of {first}, the last that "
                    "of {last}",
                    step=index + 1,
                    first=with_map[0] + 1,
                    last=with_map[-1] + 1,
                )
            )
        w = weight.astype(np.float32) / 255
        if _answers(trace):
            yield w
        elif _by_change(trace):
            # the weight is a power of it, which hides how far apart tokens are
            yield w ** (1 / max(sensitivity, 0.1))
        else:
            low = 1.0 - sensitivity
            yield np.clip((w - low) / max(sensitivity, 1e-6), 0, 1)


def _answers(trace: Trace) -> bool:
    return POLICIES.get(trace.settings.get("policy", ""), Policy()).answers


def _by_change(trace: Trace) -> bool:
    return trace.settings.get("motion_source") == "residual"
