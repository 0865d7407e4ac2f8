"""The motion map and the report, where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

MAPS: Mapping[str, Template] = {
    "no_trace": Template(
        "MotionCache is bypassed or not connected to this node",
        "Switch it on, or connect its trace output, to see what it does",
    ),
    "map_policy": Template("policy {policy!r} does not weigh tokens", "Choose view 'updates'"),
    "map_answers": Template(
        "fewer than two evaluations were computed, or the model has no grid of tokens",
        "Use more steps, or choose view 'updates'",
    ),
    "map_phase": Template(
        "the run never reached the motion phase",
        "Lower warmup_steps or uniform_updates, raise the number of steps, or choose view "
        "'updates'",
    ),
}
