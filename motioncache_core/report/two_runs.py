"""How long two runs took, one with MotionCache and one without, in one line."""

from __future__ import annotations

from ..common.phrases import phrase
from .run_summary import RunSummary
from .trace import Trace


def seconds_of(trace: Trace | None) -> float | None:
    """Of the sampler; None where it was not timed."""
    return trace.seconds if trace is not None and trace.seconds > 0 else None


def how_fast(factor: float) -> str:
    """What is measured, in words.

    Args:
        factor: seconds without MotionCache, as a multiple of those with it.
    """
    how = phrase("{factor:.1f}x faster", factor=factor)
    if factor < 1:
        how = phrase("{factor:.1f}x slower", factor=1 / factor)
    return phrase("no faster") if how.startswith("1.0x") else how


def about_times(reference: Trace | None, candidate: Trace | None) -> str:
    """What the measured times of two runs are not to be taken for; "" where there is nothing."""
    both = seconds_of(reference) is not None and seconds_of(candidate) is not None
    if both and any(run is not None and run.first for run in (reference, candidate)):
        return phrase(
            "the first run since the start takes longer: "
            "for exact times, run again with another seed"
        )
    return ""


def times(reference: Trace | None, candidate: Trace | None) -> str:
    """Seconds of the run without MotionCache and of the one with it; "" where neither is known.

    Where only the one with it was timed the other is its own estimate, and said to be one.
    """
    without, took = seconds_of(reference), seconds_of(candidate)
    if without is not None and took is not None:
        return phrase(
            "{without:.1f} s without MotionCache, {took:.1f} s with it: {how}",
            without=without,
            took=took,
            how=how_fast(without / took),
        )
    if candidate is not None and took is not None:
        guess = RunSummary(candidate).speed_up()
        if guess:
            return phrase(
                "{took:.1f} s with MotionCache, about {guess:.1f}x faster than without (estimate)",
                took=took,
                guess=guess,
            )
        return phrase("{took:.1f} s with MotionCache", took=took)
    if without is None:
        return ""
    return phrase("{without:.1f} s without MotionCache", without=without)
