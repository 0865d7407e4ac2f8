"""The ablations' variants that the pack has no setting for: each does what it says, and the pack
is as it was afterwards."""

from __future__ import annotations

from dataclasses import replace

import torch
from motioncache_pack.motioncache_core.sampling import forcing
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule


def test_second_order_is_exact_on_a_parabola(bench):
    ops = bench("quality.variants").SecondOrder()
    rng = torch.Generator().manual_seed(5)
    a, b, c, x = (torch.randn(2, 7, 5, generator=rng) for _ in range(4))

    def residual(sigma):
        return a + b * sigma + c * sigma**2

    held, slope = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
    # intervals are not alike, as with a shifted schedule
    sigmas = (1.0, 0.9, 0.7)
    for before, now in zip((None, *sigmas), sigmas, strict=False):
        rate = None if before is None else torch.full((7,), 1 / (now - before))
        ops.store_residual(x, x + residual(now), held, None if before is None else slope, rate)
    y = ops.reuse_residual(x, held, slope, torch.full((7,), 0.5 - 0.7))
    torch.testing.assert_close(y, x + residual(0.5), atol=1e-4, rtol=1e-4)


def test_second_order_is_a_line_until_three_evaluations_are_known(bench):
    ops = bench("quality.variants").SecondOrder()
    x, held, slope = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    ops.store_residual(x, x + 1, held, None, None)
    ops.store_residual(x, x + 2, held, slope, torch.full((3,), -10.0))
    y = ops.reuse_residual(x, held, slope, torch.full((3,), -0.1))
    torch.testing.assert_close(y, x + 3)


def test_without_clean_evaluations_finished_chunks_are_not_called_again(bench):
    variants = bench("quality.variants")
    options = ForcingOptions(chunk_frames=3, chunk_delay=5)
    usual = forcing_schedule(12, 8, options, prefix=3)
    with variants.variant(variants.UNCLEAN):
        run = forcing.forcing_schedule(12, 8, options, prefix=3)
    assert forcing.forcing_schedule is forcing_schedule
    clean = [(i.index, j) for i in run for j, step in enumerate(i.steps) if step.role == "clean"]
    before = [(i.index, j) for i in usual for j, step in enumerate(i.steps) if step.role == "clean"]
    # what is given has no other keys and values
    assert clean == [(0, 0)] and len(before) > 1
    assert [i.chunks for i in run] == [i.chunks for i in usual]


def test_motion_of_another_source(bench):
    """Other tokens are chosen, as many of them, and the pack chooses its own again afterwards."""
    cases, policies, variants = (bench(f"quality.{n}") for n in ("cases", "policies", "variants"))
    clip = cases.case(cases.ORDINARY, 1)
    settings = replace(policies.OURS, motion_source="predicted_x0", compute_budget=0.3)

    def sample(kind):
        with variants.variant(kind) as ops:
            return clip.cached(settings, ops)[0], ops.tape

    (own, tape), *others = (sample(k) for k in (policies.CACHED, variants.LATENTS, variants.LAST))
    for latents, chosen in others:
        assert not torch.equal(own, latents)
        assert [int(due.sum()) for due in chosen] == [int(due.sum()) for due in tape]
        assert any(not torch.equal(a, b) for a, b in zip(chosen, tape, strict=True))
    again, same = sample(policies.CACHED)
    assert torch.equal(own, again)
    assert all(torch.equal(a, b) for a, b in zip(same, tape, strict=True))
