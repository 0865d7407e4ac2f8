"""Motion weights, and latents laid out as the model's tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.policy.motion_weights import (
    change_weights,
    merge_maps,
    motion_weights,
    rate_of_change,
    token_patches,
)
from motioncache_pack.tests.support.assert_close import assert_close


def test_weights_by_hand():
    difference = torch.tensor([[0.0, 1.0, 2.0, 4.0], [3.0, 2.0, 2.5, 2.0]])
    wanted = torch.tensor([[0.6, 0.7, 0.8, 1.0], [1.0, 0.6, 0.8, 0.6]])
    assert_close("weights", wanted, motion_weights(difference, 0.4))


def test_sensitivity_is_the_distance_of_the_floor_from_one():
    difference = torch.tensor([[0.0, 0.5, 1.0]])
    assert motion_weights(difference, 0.0).tolist() == [[1.0, 1.0, 1.0]]
    assert_close("weights", difference, motion_weights(difference, 1.0))


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(1e-6, 1e6))
def test_weights_stay_between_floor_and_one(seed, sensitivity, scale):
    rng = torch.Generator().manual_seed(seed)
    weights = motion_weights(scale * torch.rand(3, 7, generator=rng), sensitivity)
    assert weights.shape == (3, 7)
    assert weights.dtype == torch.float32
    assert 1 - sensitivity - 1e-6 <= float(weights.min())
    assert float(weights.max()) <= 1 + 1e-6


def test_maps_are_averaged_over_branches_and_the_most_moving_sample_counts():
    cond = torch.tensor([[[1.0, 2.0]], [[5.0, 0.0]]])
    uncond = torch.tensor([[[3.0, 2.0]], [[1.0, 4.0]]])
    # branch means: sample 0 is (2, 2), sample 1 is (3, 2)
    assert merge_maps([cond, uncond]).tolist() == [[3.0, 2.0]]
    assert merge_maps([cond]).tolist() == [[5.0, 2.0]]


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 5, 7), (1, 1, 1)])
def test_token_patches_are_the_rows_of_the_patch_embedding(size):
    model = DemoWan(dim=128, ffn_dim=128, num_layers=1, text_dim=8)
    latents = torch.randn(2, 16, *size)
    seen = []

    def look(args, extra):
        seen.append(args["img"].clone())
        return extra["original_block"](args)

    options = {"patches_replace": {"dit": {("double_block", 0): look}}}
    model(latents, torch.zeros(2), torch.zeros(2, 3, 8), transformer_options=options)
    rows = token_patches(latents, (1, 2, 2))
    frames, height, width = size
    assert rows.shape == (2, frames, -(-height // 2) * -(-width // 2), 64)
    weight, bias = model.patch_embedding.weight.flatten(1), model.patch_embedding.bias
    assert_close("tokens", seen[0], rows.flatten(1, 2) @ weight.T + bias)


def test_token_patches_over_frames():
    latents = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert token_patches(latents, (2, 1, 1))[0, 0].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_weights_by_change_are_a_power_of_it():
    change = torch.tensor([[0.0, 1.0], [4.0, 16.0]])
    assert_close("weights", torch.tensor([[0.0, 0.25], [0.5, 1.0]]), change_weights(change, 0.5))
    assert change_weights(change, 0.0).unique().tolist() == [1.0]
    assert not change_weights(torch.zeros(2, 3), 0.4).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rate_of_change_is_the_mean_size_of_a_slope(dtype):
    slope = torch.tensor([[[1.0, -3.0], [0.0, 0.5], [-2.0, -2.0], [8.0, 0.0]]], dtype=dtype)
    got = rate_of_change(slope, (2, 2))
    assert got.dtype == torch.float32
    assert_close("rate", torch.tensor([[[2.0, 0.25], [2.0, 4.0]]]), got)


def test_rates_that_go_as_change_to_the_two_fifths_give_the_least_error():
    # of a forecast, whose error grows with change * time ** 2, at a fixed number of updates
    change = (
        torch.rand(1, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    )

    def error(sensitivity):
        rate = change_weights(change, sensitivity)
        wait = 1 / (rate / rate.sum())
        return float((change * wait**2).square().sum())

    errors = {s: error(s) for s in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)}
    assert min(errors, key=errors.get) == 0.4
