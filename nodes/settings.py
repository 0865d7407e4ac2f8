"""Every setting as a widget. Defaults are the balanced preset's, ranges come from the core."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..motioncache_core import PRESETS, MotionCacheSettings
from ..motioncache_core.settings import CHOICES, RANGES
from .types import CATEGORY, SettingsSocket

_SIMPLE = ("policy", "warmup_steps", "motion_sensitivity", "reuse_threshold", "compute_budget")
_STEPS = {"reuse_threshold": 0.005, "end_percent": 0.01}

_TOOLTIPS = {
    "policy": (
        "motion: decide per token, those that change fast first (motion_source). chunk: reuse or "
        "compute whole chunks of frames. step: reuse or compute the whole clip. random: as many "
        "tokens as motion would compute, but random ones, to see what motion is worth."
    ),
    "warmup_steps": (
        "Evaluations at the start that are computed in full. More is safer; they are part of "
        "compute_budget, and leave less of it for the steps after them."
    ),
    "motion_sensitivity": (
        "0 treats all tokens alike. Higher values let tokens that change slowly, or do not move, "
        "wait longer. 0.4 is the optimum of a forecast, and the paper's value too. With a high "
        "update_share, as with compute_budget, values above 0 choose nearly the same tokens."
    ),
    "reuse_threshold": (
        "0 never reuses: the video is the one without MotionCache. Above 0 it counts only where "
        "compute_budget is 0: how much the model's answer may change before tokens are computed "
        "again. Higher is faster and less exact."
    ),
    "uniform_updates": (
        "Full updates after the warm-up before tokens are told apart by motion. The presets but "
        "paper have none."
    ),
    "agreement": (
        "A place is computed in all frames of a chunk when more than this share of its frames is "
        "due, else in none. 0 lets every token decide for itself. Not used with compute_budget or "
        "update_share."
    ),
    "min_update_ratio": (
        "A partial evaluation below this share of the tokens is put off. Not used with "
        "compute_budget or update_share."
    ),
    "max_stale_steps": (
        "A token is computed after this many reuses at the latest; with compute_budget or "
        "update_share, in the next partial evaluation. 0 is no limit."
    ),
    "end_percent": "After this share of the schedule every evaluation is computed in full.",
    "motion_source": (
        "What tells tokens apart. residual: how fast a token's own residual changed when it was "
        "last computed. predicted_x0: how much neighbouring frames of the clean video predicted so "
        "far differ. features: the same of the model's last block, as published."
    ),
    "forecast": (
        "0 reuses the last result as it was. Higher values carry its last change on, less so the "
        "older it is. Costs one more buffer of the residual's size."
    ),
    "cfg_mask": (
        "shared takes one decision for the positive and the negative prompt, separate one each. "
        "Guidance amplifies the difference between separate ones."
    ),
    "kv_cache": (
        "Where partial evaluations find the keys and values of all tokens. gpu: on the model's "
        "device. gpu_fp8: there in half the memory, slightly rounded. cpu: in the host's memory, "
        "exact, copied while the model computes. off: nowhere, whole chunks are reused or "
        "computed. auto: the first of these that fits, gpu_fp8 and cpu also mixed."
    ),
    "verbose": "Write every decision to the log.",
    # at the end, as saved workflows know widgets by their order
    "kv_forecast": (
        "As forecast, for keys and values of tokens that a partial evaluation does not compute. "
        "Takes as much memory as these; with kv_cache auto it is left out where that is short."
    ),
    "update_share": (
        "Above 0, a partial evaluation computes this share of the tokens, the most due ones, as "
        "often as compute_budget or the threshold allows. 0: with compute_budget, 0.85 of the "
        "tokens; else each token when its own change reaches the threshold."
    ),
    "compute_budget": (
        "How much of the run is computed: 0.4 is two fifths of it, warm-up and last step included, "
        "the rest spread over the steps between. Lower is faster and less exact. It means the same "
        "work on every model and needs no threshold. 0 goes by reuse_threshold instead."
    ),
    "correction": (
        "0 leaves the forecast of a token that a partial evaluation does not compute as it is. "
        "Towards 1, what the forecast missed at computed tokens near it and like it is added. "
        "Takes time that counts in narrow networks, less in wide ones, and no memory that stays."
    ),
}


def _widget(name: str, default: Any) -> Any:
    common: dict[str, Any] = {
        "default": default,
        "tooltip": _TOOLTIPS[name],
        "advanced": name not in _SIMPLE,
    }
    if name in CHOICES:
        return io.Combo.Input(name, options=list(CHOICES[name]), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **common)
    low, high = RANGES[name]
    if isinstance(default, int):
        return io.Int.Input(name, min=int(low), max=int(high), **common)
    return io.Float.Input(name, min=low, max=high, step=_STEPS.get(name, 0.01), **common)


class MotionCacheSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults = PRESETS["balanced"].as_dict()
        return io.Schema(
            node_id="MotionCacheSettings",
            display_name="MotionCache Settings",
            category=CATEGORY,
            description="All settings of MotionCache. Connect it to the MotionCache node.",
            search_aliases=["motion cache settings", "warm-up", "motion sensitivity"],
            inputs=[_widget(name, defaults[name]) for name in _TOOLTIPS],
            outputs=[
                SettingsSocket.Output(
                    display_name="settings", tooltip="For the MotionCache node's settings input."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        policy: str,
        warmup_steps: int,
        motion_sensitivity: float,
        reuse_threshold: float,
        uniform_updates: int,
        agreement: float,
        min_update_ratio: float,
        max_stale_steps: int,
        end_percent: float,
        motion_source: str,
        forecast: float,
        cfg_mask: str,
        kv_cache: str,
        verbose: bool,
        kv_forecast: float,
        update_share: float,
        compute_budget: float,
        correction: float,
    ) -> io.NodeOutput:
        settings = MotionCacheSettings(
            policy=policy,
            warmup_steps=warmup_steps,
            motion_sensitivity=motion_sensitivity,
            reuse_threshold=reuse_threshold,
            uniform_updates=uniform_updates,
            agreement=agreement,
            min_update_ratio=min_update_ratio,
            max_stale_steps=max_stale_steps,
            end_percent=end_percent,
            motion_source=motion_source,
            forecast=forecast,
            cfg_mask=cfg_mask,
            kv_cache=kv_cache,
            verbose=verbose,
            kv_forecast=kv_forecast,
            update_share=update_share,
            compute_budget=compute_budget,
            correction=correction,
        )
        return io.NodeOutput(settings)
