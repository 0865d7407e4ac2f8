"""User settings: frozen, validated, with presets. One set of numbers for nodes, tests and docs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .common.errors import SettingsError
from .common.field_checks import check_fields, option


@dataclass(frozen=True, slots=True)
class Policy:
    """What sets a policy apart from reusing or computing whole chunks of frames.

    Attributes:
        per_token: it tells the tokens of a chunk apart.
        one_chunk: the clip is one chunk.
        at_random: it computes as many tokens, but random ones.
        answers: whole evaluations are foretold from the model's last answers, without a hook in
            its blocks.
    """

    per_token: bool = False
    one_chunk: bool = False
    at_random: bool = False
    answers: bool = False


POLICIES = {
    # ours
    "answer": Policy(one_chunk=True, answers=True),
    "motion": Policy(per_token=True),
    # FlowCache's
    "chunk": Policy(),
    # TeaCache's
    "step": Policy(one_chunk=True),
    # the control that motion has to beat
    "random": Policy(per_token=True, at_random=True),
}


@dataclass(frozen=True, slots=True)
class MotionCacheSettings:
    """What to reuse and when. Every field says what it does; beyond that:

    Attributes:
        motion_sensitivity: at 1 a token that does not move waits for ever (until
            `max_stale_steps`). The paper's floor alpha is 1 minus this. With `motion_source`
            "residual" it is the power of the rate of change.
        reuse_threshold: accumulated change at which a token is recomputed.
        update_share: without `compute_budget`, partial evaluations come each time the change has
            reached this share of `reuse_threshold`: as many tokens as whole evaluations compute.
        compute_budget: the updates are spread whatever the model's answer does, a little more
            where a step removes much noise.
        correction: ours.
        hindsight: ours.
        dense_last: the published code does not.
    """

    policy: str = option(
        "motion",
        "answer: compute the evaluations that compute_budget allows and foretell the others from "
        "the model's answers; works with any model. The others need one that is known block by "
        "block. motion: decide per token, those that change fast first (motion_source). chunk: "
        "reuse or compute whole chunks of frames. step: reuse or compute the whole clip. random: "
        "as many tokens as motion would compute, but random ones, to see what motion is worth.",
        choices=tuple(POLICIES),
        advanced=False,
    )
    warmup_steps: int = option(
        5,
        "Evaluations at the start that are computed in full, as part of compute_budget: more of "
        "them leave less of it for the steps after them. policy answer needs no more than one.",
        limits=(1, 100),
        advanced=False,
    )
    motion_sensitivity: float = option(
        0.4,
        "0 treats all tokens alike. Higher values let tokens that change slowly, or do not move, "
        "wait longer. 0.4 is the optimum of a forecast, and the paper's value too. With a high "
        "update_share, as with compute_budget, values above 0 choose nearly the same tokens. Not "
        "used with policy answer, as it tells no tokens apart.",
    )
    reuse_threshold: float = option(
        0.1,
        "0 never reuses: the video is the one without MotionCache. Above 0 it counts only where "
        "compute_budget is 0: how much the model's answer may change before tokens are computed "
        "again. Higher is faster and less exact. policy answer always goes by compute_budget.",
        limits=(0.0, 10.0),
        step=0.005,
    )
    uniform_updates: int = option(
        3,
        "Full updates after the warm-up before tokens are told apart by motion. Not used with "
        "policy answer; preset motion has none.",
        limits=(0, 1000),
    )
    agreement: float = option(
        0.5,
        "A place is computed in all frames of a chunk when more than this share of its frames is "
        "due, else in none. 0 lets every token decide for itself. Not used with compute_budget or "
        "update_share.",
        limits=(0.0, 0.99),
        hint=" (the vote needs more than this share)",
    )
    min_update_ratio: float = option(
        0.2,
        "A partial evaluation below this share of the tokens is put off. Not used with "
        "compute_budget or update_share.",
    )
    update_share: float = option(
        0.0,
        "Above 0, a partial evaluation computes this share of the tokens, the most due ones, as "
        "often as compute_budget or the threshold allows. 0: with compute_budget, 0.85 of the "
        "tokens; else each token when its own change reaches the threshold.",
    )
    compute_budget: float = option(
        0.0,
        "How much of the run is computed: 0.4 is two fifths of it, warm-up and last step included, "
        "the rest spread over the steps between. Lower is faster and less exact. It means the same "
        "work on every model and needs no threshold. 0 goes by reuse_threshold instead, which "
        "policy answer cannot.",
        advanced=False,
    )
    max_stale_steps: int = option(
        8,
        "A token is computed after this many reuses at the latest; with compute_budget or "
        "update_share, in the next partial evaluation. 0 is no limit.",
        limits=(0, 1000),
    )
    end_percent: float = option(
        1.0, "After this share of the schedule every evaluation is computed in full."
    )
    motion_source: str = option(
        "predicted_x0",
        "What tells tokens apart. residual: how fast a token's own residual changed when it was "
        "last computed. predicted_x0: how much neighbouring frames of the clean video predicted so "
        "far differ. features: the same of the model's last block, as published.",
        choices=("predicted_x0", "features", "residual"),
    )
    forecast: float = option(
        0.0,
        "0 reuses the last result as it was. Higher values carry its last change on, less so the "
        "older it is. With policy answer the results are the model's answers, of which three are "
        "kept; else it costs one more buffer of the residual's size.",
    )
    kv_forecast: float = option(
        0.0,
        "As forecast, for keys and values of tokens that a partial evaluation does not compute. "
        "Takes as much memory as these; with kv_cache auto it is left out where that is short.",
    )
    correction: float = option(
        0.0,
        "0 leaves the forecast of a token that a partial evaluation does not compute as it is. "
        "Towards 1, what the forecast missed at computed tokens near it and like it is added. "
        "Takes time that counts in narrow networks, less in wide ones, and no memory that stays.",
    )
    cfg_mask: str = option(
        "shared",
        "shared takes one decision for the positive and the negative prompt, separate one each. "
        "Guidance amplifies the difference between separate ones. policy answer always shares.",
        choices=("shared", "separate"),
    )
    kv_cache: str = option(
        "auto",
        "Where partial evaluations find the keys and values of all tokens. gpu: on the model's "
        "device. gpu_fp8: there in half the memory, slightly rounded. cpu: in the host's memory, "
        "exact, copied while the model computes. off: nowhere, whole chunks are reused or "
        "computed. auto: the first of these that fits, gpu_fp8 and cpu also mixed.",
        choices=("auto", "gpu", "gpu_fp8", "cpu", "off"),
    )
    hindsight: bool = option(
        True,
        "When an evaluation is computed, see what the foretold ones before it missed, and make up "
        "for it in the answers that the sampler is given next. Only with policy answer.",
    )
    verbose: bool = option(False, "Write every decision to the log.")
    dense_last: bool = option(True, "Compute the last evaluation in full.")
    clamp_distance: bool = option(
        True, "Read a negative distance (outside a polynomial's range) as 0."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.traits.answers and self.compute_budget == 0 and self.reuse_threshold > 0:
            raise SettingsError(
                "policy is 'answer' and compute_budget is 0; it goes by a share of the run, above "
                "0 and up to 1. Set compute_budget (0.4 is usual), or choose another policy"
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> MotionCacheSettings:
        """The preset's settings, with single fields changed.

        Raises:
            SettingsError: the preset or a field is unknown, or a value is out of range.
        """
        if name not in PRESETS:
            raise SettingsError(
                f"preset is {name!r}; allowed are {', '.join(map(repr, PRESETS))}. "
                "Pick one of these, or connect a settings node."
            )
        unknown = changes.keys() - {f.name for f in fields(cls)}
        if unknown:
            known = ", ".join(f.name for f in fields(cls))
            raise SettingsError(f"unknown settings {sorted(unknown)}; known are {known}")
        return replace(PRESETS[name], **changes)

    @property
    def traits(self) -> Policy:
        """What the policy is like."""
        return POLICIES[self.policy]

    @property
    def keeps_slope(self) -> bool:
        """Whether the residual's slope is kept."""
        by_change = self.traits.per_token and self.motion_source == "residual"
        return self.forecast > 0 or by_change

    def as_dict(self) -> dict[str, Any]:
        """All fields, for reports."""
        return asdict(self)


_TUNED = MotionCacheSettings(
    warmup_steps=2,
    motion_sensitivity=0.4,
    uniform_updates=0,
    min_update_ratio=0.4,
    max_stale_steps=16,
    motion_source="residual",
    forecast=1.0,
    kv_forecast=0.5,
    correction=1.0,
)

# what policy answer has no use for is there for who changes the policy alone
_ANSWERS = replace(_TUNED, policy="answer", warmup_steps=1, compute_budget=0.4)

PRESETS: dict[str, MotionCacheSettings] = {
    "off": MotionCacheSettings(reuse_threshold=0.0),
    # what they bring on four models: tests/bench/results/answers.json
    "quality": replace(_ANSWERS, compute_budget=0.5),
    "balanced": _ANSWERS,
    "fast": replace(_ANSWERS, compute_budget=0.3),
    # tokens, ours
    "motion": replace(_TUNED, compute_budget=0.4),
    # the published script: 1 + 4 full evaluations, 6 uniform updates, floor 0.6, vote 0.5
    "paper": MotionCacheSettings(
        warmup_steps=5,
        motion_sensitivity=0.4,
        reuse_threshold=0.1,
        uniform_updates=6,
        agreement=0.5,
        min_update_ratio=0.4,
        max_stale_steps=0,
        motion_source="features",
        cfg_mask="separate",
        dense_last=False,
        clamp_distance=False,
        hindsight=False,
    ),
}
