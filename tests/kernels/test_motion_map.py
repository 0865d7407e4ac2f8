from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import motion_map

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    ((1, 1, 1, 64), FP32),
    ((2, 3, 63, 60), FP32),
    ((2, 3, 63, 60), BF16),
    ((1, 2, 130, 384), FP16),
    ((1, 4, 3, 1536), BF16),
]

pytestmark = pytest.mark.usefixtures("poisoned")


def oracle(features):
    y = features.double()
    if y.shape[1] == 1:
        return torch.zeros(y.shape[:3])
    now, before = y[:, 1:], y[:, :-1]
    moved = (now - before).abs().mean(-1) / (before.abs().mean(-1) + 1e-8)
    return torch.cat([moved[:, :1], moved], 1)


@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_motion_map(backend, dtype, shape, assert_close):
    features = torch.randn(shape).to(dtype)
    kept = features.clone()
    actual = motion_map(features)
    assert actual.dtype == torch.float32
    assert_close("D", oracle(features), actual)
    assert torch.equal(features, kept)


def test_what_stands_still_has_no_motion(backend):
    frame = torch.randn(1, 1, 63, 60)
    features = frame.repeat(1, 3, 1, 1)
    features[:, :, 5] = 0.0
    assert torch.equal(motion_map(features), torch.zeros(1, 3, 63))


def test_doubling_is_a_distance_of_one(backend):
    frame = torch.randn(1, 1, 63, 64)
    actual = motion_map(torch.cat([frame, 2 * frame, 2 * frame], 1))
    torch.testing.assert_close(actual[:, :2], torch.ones(1, 2, 63))
    assert not actual[:, 2].any()


def test_bad_arguments_are_told(assert_refused):
    assert_refused(
        motion_map,
        {},
        ({"features": torch.zeros(1, 2, 3)}, r"\[B, F, S, C\]"),
        ({"features": torch.zeros(1, 2, 3, 4, dtype=torch.int32)}, "float32"),
        ({"features": torch.zeros(1, 2, 4, 3).transpose(2, 3)}, "contiguous"),
    )
