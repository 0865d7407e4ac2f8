"""The errors that the bench of the families tells: what single tokens, and all of them, answer."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from families_table import CHECKS
from torch import Tensor


class RedGateError(Exception):
    """What has to hold before a number is worth telling does not."""


def module(name: str) -> Any:
    """One of the tests' modules."""
    return importlib.import_module(f"motioncache_pack.tests.{name}")


def worst(wanted: list[Tensor], got: list[Tensor]) -> float:
    """The largest error over all parts, in units of what was expected; infinite for a NaN."""
    error = module("support.assert_close").relative_error
    found = [error(*pair) for pair in zip(wanted, got, strict=True)]
    return max(e if e == e else float("inf") for e in found)


@contextlib.contextmanager
def dictated(*decisions: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patches:
        module("core.runs").dictate(patches, *decisions)
        yield


def checks_of_calls(
    tokens: int,
    run: Callable[[], Any],
    oracle: Any,
    call: Any,
    plain: Callable[[Any], Tensor],
    video: Callable[[Any], Tensor] = lambda answer: answer,
) -> dict[str, float]:
    """The checks on calls that the host's sampler made.

    Args:
        run: makes a session around the network.
        oracle: that answers the same calls.
        call: of a step, for one of two prompts.
        plain: the network's own answer.
        video: the video's part of an answer.

    Raises:
        RedGateError: of `in_part` and `shown`.
    """
    random_rows = module("core.oracle").random_rows
    everything, third = range(tokens), random_rows(tokens, tokens // 3, 5)
    half, most = random_rows(tokens, tokens // 2, 6), random_rows(tokens, tokens - 1, 7)
    found = dict.fromkeys(CHECKS, 0.0)

    def compare(check: str, wanted: Tensor, got: Tensor) -> None:
        found[check] = max(found[check], worst([wanted], [got]))

    with dictated("dense", everything):
        session = run()
        for step in range(2):
            given = call(step, 0)
            compare("all rows", video(plain(given)), video(session.call(given)))
    in_part(session.kinds)
    with dictated("dense", third):
        session = run()
        given = call(0, 0)
        for _ in range(2):
            compare("subset", video(plain(given)), video(session.call(given)))
    in_part(session.kinds)
    plan = [everything, half, third[:1], [], most]
    told = ["dense", half, third[:1], "reuse", most]
    moved = 0.0
    with dictated(*told):
        session = run()
        for step, rows in enumerate(plan):
            # the prompt changes in mid-run
            given = call(step, step % 2)
            wanted = video(oracle.call(given, rows)).clone()
            moved = max(moved, worst([video(plain(given))], [wanted]))
            compare("changed", wanted, video(session.call(given)))
    in_part(session.kinds)
    return shown(found, moved)


def checks_of_runs(subject: Any) -> dict[str, float]:
    """The same in whole runs of the sampler, sound included.

    Args:
        subject: of `test_families_host.py`.
    """
    host = module("comfyui.host_weights")
    tests = module("comfyui.test_families_host")
    random_rows = module("core.oracle").random_rows
    n, steps = subject.tokens, tests.STEPS
    found = {}
    wanted = subject.sample(subject.model)
    with dictated("dense", *[range(n)] * (steps - 1)):
        got, trace = subject.traced()
    in_part([call.kind for call in trace.calls()])
    found["all rows"] = worst(host.parts(wanted), host.parts(got))
    with dictated(*["dense", random_rows(n, n // 3, 5), "reuse"] * steps):
        patched, handle = subject.patched()
        outs = tests.thrice(patched)
        subject.sample(patched, cfg=1.0)
    in_part([call.kind for call in handle.latest.calls()])
    same = ((outs[i], out) for i in range(0, len(outs), 3) for out in outs[i + 1 : i + 3])
    found["subset"] = max(worst(host.parts(a), host.parts(b)) for a, b in same)
    counts = (n // 3, 1, 0, n // 2, n - 1, 0, n // 5)
    rows = [range(n), *(random_rows(n, k, i) for i, k in enumerate(counts)), range(n)]
    told = {0: "reuse", n: "dense"}
    oracle = host.WithOracle(subject.case, rows)
    wanted = subject.sample(oracle.put(subject.model))
    with dictated(*(told.get(len(r), r) for r in rows)):
        got, trace = subject.traced()
    in_part([call.kind for call in trace.calls()])
    found["changed"] = worst(host.parts(wanted), host.parts(got))
    return shown(found, oracle.changed)


def in_part(kinds: list[str]) -> None:
    """Holds that some call was computed in part, as whole ones have no errors to tell.

    Raises:
        RedGateError: none was.
    """
    if "partial" not in kinds or "declined" in kinds:
        raise RedGateError(f"calls that were to be computed in part were {', '.join(kinds)}")


def shown(found: dict[str, float], moved: float) -> dict[str, float]:
    """The errors, where the oracle's answers are as far as `moved` from those of all rows.

    Raises:
        RedGateError: they are the same, so the errors show nothing.
    """
    if not moved > 1e-3:
        raise RedGateError("the oracle answers what all rows do, so the checks show nothing")
    return {**found, "moved": moved}
