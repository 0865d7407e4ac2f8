"""The whole run, known at its end."""

from __future__ import annotations

from collections.abc import Mapping

from .template import Template

ENDS: Mapping[str, Template] = {
    "not_called": Template(
        "the model was not called through its block hooks; nothing was measured",
        "Connect the patched model to the sampler, and use a sampler that calls the model itself",
    ),
    "protected": Template(
        "all {evaluations} evaluations fell into warm-up or the protected end",
        "Use more steps, or lower warmup_steps",
    ),
    "budget_whole": Template(
        "compute_budget is {budget:g}, which is enough to compute every evaluation", "Lower it"
    ),
    "threshold_reached": Template(
        "the change per step (up to {largest:.3g}) reached reuse_threshold {threshold} every time",
        "Raise it, or use another preset",
    ),
}
