"""How much of the work was done, and what that saved."""

from __future__ import annotations

from itertools import combinations
from statistics import median

from .trace import CallRecord, Trace

# calls that an estimate of seconds looks at, at most
_FITTED_CALLS = 300


def block_macs(trace: Trace, rows: int, pairs: int) -> int:
    """Multiply-accumulates of one block for `rows` active rows of one batch row.

    Linear layers grow with the rows, self-attention with the query-key pairs.
    """
    return rows * trace.row_work + pairs * trace.pair_work


def compute_share(trace: Trace) -> float:
    """Token rows sent through the blocks, as a share of the same run's without reuse."""
    full = sum(c.rows * needed_work(trace, c)[0] for c in trace.calls())
    return sum(c.rows * _done(trace, c)[0] for c in trace.calls()) / full if full else 1.0


def flops_share(trace: Trace) -> float:
    """Work inside the blocks, attention counted, as a share of the same run's without reuse."""
    full = sum(c.rows * block_macs(trace, *needed_work(trace, c)) for c in trace.calls())
    done = sum(c.rows * block_macs(trace, *_done(trace, c)) for c in trace.calls())
    return done / full if full else 1.0


def engine_share(trace: Trace) -> float:
    """Work inside the blocks without reuse, as a share of the same schedule's when every frame of
    the model's input is computed and attends to all others. Below 1 under block-causal attention,
    which is not what a bidirectional model computes."""
    full = sum(c.rows * block_macs(trace, *_whole(trace, c)) for c in trace.calls())
    needed = sum(c.rows * block_macs(trace, *needed_work(trace, c)) for c in trace.calls())
    return needed / full if full else 1.0


def _whole(trace: Trace, call: CallRecord) -> tuple[int, int]:
    tokens = call.window or trace.tokens
    return tokens, tokens * tokens


def needed_work(trace: Trace, call: CallRecord) -> tuple[int, int]:
    return (call.needed, call.needed_pairs) if call.needed else _whole(trace, call)


def _done(trace: Trace, call: CallRecord) -> tuple[int, int]:
    if call.kind == "declined":
        # the clip may not have been known yet
        return _whole(trace, call)
    pairs = call.pairs if call.needed else call.computed * trace.tokens
    return call.computed, pairs


def seconds_saved(trace: Trace, fitted: int = _FITTED_CALLS) -> float | None:
    """Estimate: the work that was left out, times what a unit of work took.

    That rate is the median slope of seconds over work between any two calls (Theil-Sen), so that
    neither a call's fixed cost nor a slow first call counts as saved. None where seconds are not
    known or all calls did the same work. About `fitted` calls are looked at.
    """
    timed = [c for c in trace.calls() if c.seconds > 0]
    timed = timed[:: 1 + len(timed) // fitted]
    points = [(c.rows * block_macs(trace, *_done(trace, c)), c.seconds) for c in timed]
    slopes = [(t1 - t0) / (w1 - w0) for (w0, t0), (w1, t1) in combinations(points, 2) if w0 != w1]
    if not slopes:
        return None
    left_out = sum(
        c.rows * (block_macs(trace, *needed_work(trace, c)) - block_macs(trace, *_done(trace, c)))
        for c in trace.calls()
    )
    return max(0.0, median(slopes)) * left_out
