"""What the MotionCache node says of a run, in a few short lines."""

from __future__ import annotations

import textwrap

from ..common.phrases import Phrase, phrase, together
from ..settings import MotionCacheSettings
from .run_summary import RunSummary
from .trace import PlannedKeys, Trace
from .two_runs import how_fast

# a sentence on a node breaks where words end: the page would break it within a number
_NODE_WIDTH = 32
# bytes of keys and values that are spoken of
_MATTERS = 5e7


def progress(trace: Trace, measured: bool = False) -> str:
    """Lines about a run that goes on or has just ended.

    Args:
        measured: its gain is going to be measured, so that no estimate stands beside that.
    """
    run = RunSummary(trace)
    why = run.why if trace.finished else trace.reason
    if why and trace.finished:
        return on_node(phrase("nothing was reused: {why}", why=why))
    if why:
        return on_node(phrase("nothing is reused: {why}", why=why))
    keys = _keys(trace)
    if not trace.finished:
        return together("\n", [_so_far(run), *keys])
    share, faster = percent(1 - run.compute_share), None if measured else run.speed_up()
    if faster is None:
        return together("\n", [phrase("{share} reused", share=share), *keys])
    said = phrase("{share} reused · about {faster:.1f}x faster", share=share, faster=faster)
    return together("\n", [said, *keys])


def _so_far(run: RunSummary) -> str:
    trace = run.trace
    if not run.calls:
        # what the first evaluation will keep is known before it is computed
        return expected(MotionCacheSettings(**trace.settings), trace.preset)
    n, of, share = len(trace.evaluations), trace.expected or trace.steps, run.compute_share
    reused = phrase("{share} reused", share=percent(1 - share))
    if trace.unit == "step":
        at = phrase("step {n} of {of}", n=n, of=of) if n <= of else phrase("step {n}", n=n)
    elif n <= of:
        at = phrase("evaluation {n} of {of}", n=n, of=of)
    else:
        at = phrase("evaluation {n}", n=n)
    return together(" · ", [at, reused])


def faster_than(trace: Trace, without: float) -> str:
    """Lines about a run that was measured.

    Args:
        without: seconds of the same run without MotionCache.
    """
    share = percent(1 - RunSummary(trace).compute_share)
    said = phrase("{share} reused · {how}", share=share, how=how_fast(without / trace.seconds))
    return together("\n", [said, phrase("(measured, not estimated)"), *_keys(trace)])


def left_alone(seconds: float) -> str:
    """A line about a run without MotionCache."""
    return phrase("{seconds:.1f} s in the sampler, nothing reused", seconds=seconds)


def expected(settings: MotionCacheSettings, preset: str | None) -> str:
    """Lines before a run, of a node whose preset may be overruled."""
    lines = [gain(settings)]
    if preset is None:
        lines = [phrase("settings are connected,\npreset is not used"), *lines]
    return together("\n", lines)


def gain(settings: MotionCacheSettings) -> str:
    """What is to be expected of a run, before it starts."""
    budget = settings.compute_budget
    if settings.reuse_threshold == 0:
        return phrase("nothing is reused")
    if budget == 0:
        return phrase("reuses what changes little:\nhow much depends on the video")
    share = percent(budget)
    computes = (
        phrase("computes {share} of the steps", share=share)
        if settings.traits.answers
        else phrase("computes {share} of the tokens", share=share)
    )
    faster = phrase("up to {faster:.1f}x faster in the sampler", faster=1 / budget)
    return together("\n", [computes, faster])


def on_node(sentence: str) -> str:
    """A sentence in lines that fit on a node."""
    lines = textwrap.fill(sentence, _NODE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return sentence.spelled(lines) if isinstance(sentence, Phrase) else lines


def percent(share: float) -> str:
    # a space that no line breaks at
    return f"{100 * share:.0f}\u00a0%"


def _keys(trace: Trace) -> list[str]:
    """The lines on the memory of keys and values, known when the first call of the network has
    reached its first block."""
    planned = trace.kv_planned
    if trace.kv_bytes or trace.kv_host_bytes or planned is None:
        held = _places(trace.kv_bytes, trace.kv_host_bytes)
        return [phrase("keys and values {held}", held=held)] if held else []
    held = _places(planned.nbytes, planned.host_bytes)
    return [phrase("keys and values {held}", held=held), prompts(planned)] if held else []


def prompts(planned: PlannedKeys) -> str:
    """How many prompts the keys and values are of."""
    n = planned.prompts
    return phrase("for one prompt") if n == 1 else phrase("for {n} prompts together", n=n)


def _places(device: int, host: int) -> str:
    # less than this does not matter to anyone
    held = []
    if device >= _MATTERS:
        held.append(phrase("{size}, on the model's device", size=_gigabytes(device)))
    if host >= _MATTERS:
        held.append(phrase("{size}, in the host's memory", size=_gigabytes(host)))
    return together(" and ", held) if held else ""


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f}\u00a0GB"
