"""How long two runs took, one with MotionCache and one without, in one line."""

from __future__ import annotations

from .run_summary import RunSummary
from .trace import Trace


def seconds_of(trace: Trace | None) -> float | None:
    """Of the sampler; None where it was not timed."""
    return trace.seconds if trace is not None and trace.seconds > 0 else None


def times(reference: Trace | None, candidate: Trace | None) -> str:
    """Seconds of the run without MotionCache and of the one with it; "" where neither is known.

    Where only the one with it was timed the other is its own estimate, and said to be one.
    """
    without, took = seconds_of(reference), seconds_of(candidate)
    if without is not None and took is not None:
        factor = without / took
        words = f"{factor:.1f}x faster" if factor >= 1 else f"{1 / factor:.1f}x slower"
        if words.startswith("1.0x"):
            words = "no faster"
        return f"{without:.1f} s without MotionCache, {took:.1f} s with it: {words}"
    if candidate is not None and took is not None:
        guess = RunSummary(candidate).speed_up()
        about = f", about {guess:.1f}x faster than without (estimate)" if guess else ""
        return f"{took:.1f} s with MotionCache{about}"
    return "" if without is None else f"{without:.1f} s without MotionCache"
