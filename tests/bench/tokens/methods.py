"""What is compared, at the work of 7 and of 10 of 24 whole evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from motioncache_pack.motioncache_core import PRESETS
from motioncache_pack.motioncache_core.report.compute_share import compute_share
from tokens import choose
from tokens.choose import Seen
from tokens.clips import STEPS, TokenClip
from tokens.network import EXACT, FORETOLD, FRESH, STORED, RowNetwork
from tokens.plans import between, spread, whole
from tokens.sample import Sampled, sample

# whole evaluations, and the budget that they stand for
WORKS = {7: 0.3, 10: 0.4}
# budgets with which the preset computes about as much: it rounds down
AS_MUCH = {7: 0.325, 10: 0.45}
WHOLE, TODAY, LEVEL = "whole answers", "residual rows", "residual rows, as much work"
# a network as deep as Wan 14B, in which a probed block costs little
DEEP = 40
KEYS = (STORED, FORETOLD, FRESH, EXACT)

Way = Callable[[TokenClip], Sampled]


def ways(work: int) -> dict[str, Way]:
    """Every way to spend so much work, by name."""
    found: dict[str, Way] = {
        WHOLE: lambda clip: sample(clip, whole(clip.sigmas, work), None),
        TODAY: lambda clip: today(clip, WORKS[work]),
        LEVEL: lambda clip: today(clip, AS_MUCH[work]),
    }
    for keys in KEYS:
        found[f"missed, {keys}"] = parts(work, choose.missed, keys)
    for keys in (STORED, EXACT):
        found[f"oracle, {keys}"] = parts(work, choose.oracle, keys)
    found[f"probe, {FRESH}"] = parts(work, choose.probe, FRESH, 1)
    found[f"probe as one of {DEEP} blocks, {FRESH}"] = parts(work, choose.probe, FRESH, 1, DEEP)
    found[f"cut of two blocks, {STORED}"] = parts(work, choose.probe, STORED, 2)
    for keys in (FORETOLD, FRESH):
        found[f"last one in parts, {keys}"] = last_one(work, keys)
    found[f"seven tenths in turn, {FORETOLD}"] = seven_tenths(work, FORETOLD)
    return found


def today(clip: TokenClip, budget: float) -> Sampled:
    """Preset `motion` as it is: rows of residuals."""
    latents, trace = clip.by_product(replace(PRESETS["motion"], compute_budget=budget))
    return Sampled(latents, compute_share(trace))


def parts(
    work: int, score: Callable[[Seen], object], keys: str, cut: int = 0, depth: int = 0
) -> Way:
    """Whole evaluations, and between them halves of others."""

    def run(clip: TokenClip) -> Sampled:
        left_out = RowNetwork(clip, keys, cut, depth).left_out()
        plan = spread(clip.sigmas, work, {7: 5, 10: 7}[work], 0.5, left_out)
        return sample(clip, plan, score, keys, cut, depth)

    return run


def last_one(work: int, keys: str) -> Way:
    """One whole evaluation less, and for it two halves in the widest gaps."""

    def run(clip: TokenClip) -> Sampled:
        left_out = RowNetwork(clip, keys).left_out()
        plan = between(clip.sigmas, work, work - 1, 0.4, left_out)
        return sample(clip, plan, choose.missed_in_turn, keys)

    return run


def seven_tenths(work: int, keys: str) -> Way:
    """About seven tenths of the rows in every evaluation, in turn."""

    def run(clip: TokenClip) -> Sampled:
        left_out = RowNetwork(clip, keys).left_out()
        plan = spread(clip.sigmas, work, 3, 0.7, left_out)
        return sample(clip, plan, choose.age, keys)

    return run


def gate(clip: TokenClip) -> None:
    """What must be the same is.

    Raises:
        SystemExit: else; no number may be printed.
    """
    uncached, _ = clip.by_product(PRESETS["off"])
    if not uncached.equal(sample(clip, (1.0,) * STEPS, None).latents):
        raise SystemExit("a run that computes everything is not the product's without a cache")
    for work, budget in WORKS.items():
        ours, _ = clip.by_product(replace(PRESETS["balanced"], compute_budget=budget))
        mine = sample(clip, whole(clip.sigmas, work), None).latents
        if (ours - mine).abs().max() > 1e-3 * ours.abs().max():
            raise SystemExit(f"{work} whole evaluations are not the product's")
