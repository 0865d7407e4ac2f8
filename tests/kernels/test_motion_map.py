from __future__ import annotations

import pytest
import torch
from motioncache_pack.kernels import motion_map

SHAPES = [(1, 1, 1, 64), (2, 3, 63, 60), (1, 2, 130, 384), (1, 4, 3, 1536)]
IDS = ["one-token", "three-frames", "two-frames", "wide"]

pytestmark = pytest.mark.usefixtures("poisoned")


def oracle(features, previous):
    y = features.double()
    frames = []
    for f in range(y.shape[1]):
        if f > 0:
            before = y[:, f - 1]
        elif previous is not None:
            before = previous.double()
        else:
            frames.append(None)
            continue
        frames.append((y[:, f] - before).abs().mean(-1) / (before.abs().mean(-1) + 1e-8))
    if frames[0] is None:
        frames[0] = frames[1] if len(frames) > 1 else torch.zeros_like(y[:, 0, :, 0])
    return torch.stack(frames, 1)


@pytest.mark.parametrize("with_previous", [False, True], ids=["no-previous", "previous"])
@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_motion_map(backend, dtype, shape, with_previous, assert_close):
    features = torch.randn(shape).to(dtype)
    previous = torch.randn(shape[0], *shape[2:]).to(dtype) if with_previous else None
    kept = features.clone()
    actual = motion_map(features, previous)
    assert actual.dtype == torch.float32
    assert_close("D", oracle(features, previous), actual)
    assert torch.equal(features, kept)


def test_what_stands_still_has_no_motion(backend):
    frame = torch.randn(1, 1, 63, 60)
    features = frame.repeat(1, 3, 1, 1)
    features[:, :, 5] = 0.0
    assert torch.equal(motion_map(features), torch.zeros(1, 3, 63))


def test_doubling_is_a_distance_of_one(backend):
    frame = torch.randn(1, 1, 63, 64)
    actual = motion_map(torch.cat([frame, 2 * frame], 1), frame[:, 0])
    torch.testing.assert_close(actual[:, 0], torch.zeros(1, 63))
    torch.testing.assert_close(actual[:, 1], torch.ones(1, 63))


@pytest.mark.parametrize(
    ("features", "previous", "told"),
    [
        (torch.zeros(1, 2, 3), None, r"\[B, F, S, C\]"),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int32), None, "float32"),
        (torch.zeros(1, 2, 4, 3).transpose(2, 3), None, "contiguous"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 5), r"\[1, 3, 4\]"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4).half(), "float16"),
    ],
)
def test_bad_arguments_are_told(features, previous, told):
    with pytest.raises(ValueError, match=told):
        motion_map(features, previous)
