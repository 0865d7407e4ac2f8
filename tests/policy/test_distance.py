"""Distance measures against numpy and arithmetic done by hand."""

import json

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.common.token_layout import TokenLayout
from motioncache_pack.motioncache_core.models.wan import polynomial_names, wan_distance
from motioncache_pack.motioncache_core.policy.clip_decision import measure
from motioncache_pack.motioncache_core.policy.clip_state import ClipState
from motioncache_pack.motioncache_core.policy.distance import (
    CalibratedProfile,
    InputChange,
    TimestepPolynomial,
)

# TeaCache's published coefficients (Apache-2.0), highest power first, typed in anew from its table
PUBLISHED = {
    "Wan 2.1 T2V 1.3B": [-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664],
    "Wan 2.1 T2V 14B": [-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525],
    "Wan 2.1 I2V 14B 480P": [257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977],
    "Wan 2.1 I2V 14B 720P": [8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401],
}
# (width, image to video, tokens of a frame)
CALLS = {
    "Wan 2.1 T2V 1.3B": (1536, False, 1560),
    "Wan 2.1 T2V 14B": (5120, False, 1560),
    "Wan 2.1 I2V 14B 480P": (5120, True, 1560),
    "Wan 2.1 I2V 14B 720P": (5120, True, 3600),
}
TOKENS = torch.zeros(1, 1, 1)


def relative(measure, rel, frames=1):
    """The distance where every frame's modulation grew by the share `rel`."""
    before = measure.signal(TOKENS, torch.full((frames, 6, 4), 2.0), 1.0)
    after = measure.signal(TOKENS, torch.full((frames, 6, 4), 2.0 * (1 + rel)), 0.9)
    return float(measure.between(before, after))


@pytest.mark.parametrize("model", sorted({*PUBLISHED, *polynomial_names()}))
def test_polynomials_are_those_of_numpy(model):
    raw, clamped = (wan_distance(*CALLS[model], clamp=c) for c in (False, True))
    assert model in raw.name
    for rel in (0.0, 0.001, 0.01, 0.03, 0.05, 0.08, 0.11, 0.2):
        wanted = np.polyval(PUBLISHED[model], rel)
        # fp32 Horner steps lose digits where large terms cancel
        room = 1e-5 * np.polyval(np.abs(PUBLISHED[model]), rel) + 1e-6
        assert relative(raw, rel) == pytest.approx(wanted, abs=room)
        # where nothing changed the distance is 0, though the fits have an offset there
        kept = max(wanted, 0.0) if rel else 0.0
        assert relative(clamped, rel) == pytest.approx(kept, abs=room)


def test_the_measure_follows_width_kind_and_size():
    for width, image, tokens, model in (
        (1536, False, 32760, "T2V 1.3B"),
        (5120, False, 10, "T2V 14B"),
        (5120, True, 1560, "I2V 14B 480P"),
        (5120, True, 2580, "I2V 14B 480P"),
        (5120, True, 2581, "I2V 14B 720P"),
    ):
        name = wan_distance(width, image, tokens, clamp=True).name
        assert name == f"timestep polynomial (Wan 2.1 {model})"
    for call in ((1536, True, 1560), (3072, False, 1560), (128, False, 16)):
        assert wan_distance(*call, clamp=True).name == "input change"


IDENTITY = TimestepPolynomial("identity", (1.0, 0.0))


def test_the_frame_that_moved_most_counts():
    before = torch.full((3, 6, 2), 4.0)
    after = before.clone()
    after[0] += 0.4
    after[1] -= 1.0
    # |-1| / 4 in frame 1, 0.1 in frame 0, none in frame 2
    assert float(IDENTITY.between(before, after)) == pytest.approx(0.25)


def test_a_modulation_that_was_zero_does_not_divide_by_zero():
    assert float(IDENTITY.between(torch.zeros(1, 6, 2), torch.zeros(1, 6, 2))) == 0.0


def test_a_modulation_signal_in_half_precision_is_measured_in_full():
    half = torch.ones(1, 6, 2, dtype=torch.bfloat16)
    assert IDENTITY.signal(TOKENS, half, 1.0).dtype == torch.float32


PROFILE = CalibratedProfile("toy", (0.0, 0.25, 0.5, 1.0), (0.0, 0.8, 1.0, 1.1))


def travelled(previous, current):
    """The profile's distance between two noise levels."""
    measure = PROFILE.to(torch.device("cpu"))
    levels = (torch.tensor(sigma, dtype=torch.float64) for sigma in (previous, current))
    return float(measure.between(*(measure.signal(TOKENS, TOKENS, s) for s in levels)))


def test_a_profile_is_interpolated():
    for previous, current, wanted in (
        (1.0, 0.5, 0.1), (1.0, 0.75, 0.05), (0.5, 0.375, 0.1), (0.75, 0.125, 0.65),
        (0.125, 0.75, 0.65), (0.25, 0.25, 0.0), (1.5, 1.0, 0.0), (0.0, -0.5, 0.0), (1.0, 0.0, 1.1),
    ):  # fmt: skip
        assert travelled(previous, current) == pytest.approx(wanted)


def test_a_profile_that_does_not_ascend_is_refused():
    for sigmas, travelled in (
        ((0.0,), (0.0,)),
        ((), ()),
        ((0.0, 1.0), (0.0,)),
        ((0.0, 0.5, 0.5, 1.0), (0.0, 0.1, 0.2, 0.3)),
        ((1.0, 0.0), (0.0, 1.0)),
        ((0.0, 1.0), (1.0, 0.0)),
    ):
        with pytest.raises(SettingsError, match="profile"):
            CalibratedProfile("toy", sigmas, travelled)


def test_a_profile_survives_its_file(tmp_path):
    path = tmp_path / "profile.json"
    PROFILE.dump(path)
    assert CalibratedProfile.load(path) == PROFILE
    assert PROFILE.name == "calibrated profile (toy)"
    assert set(json.loads(path.read_text())) == {"model", "sigmas", "travelled"}


def test_input_change_by_hand():
    measure = InputChange()
    before = torch.tensor([[[1.0, -3.0], [2.0, 2.0]]])
    after = torch.tensor([[[2.0, -3.0], [2.0, 1.0]]])
    # (1 + 0 + 0 + 1) / (1 + 3 + 2 + 2)
    assert float(
        measure.between(measure.signal(before, TOKENS, 1.0), measure.signal(after, TOKENS, 0.9))
    ) == pytest.approx(0.25)


def test_input_change_keeps_a_copy_of_few_rows():
    tokens = torch.ones(1, 100_000, 2)
    signal = InputChange().signal(tokens, TOKENS, 1.0)
    tokens.zero_()
    assert 4096 <= signal.shape[1] < 2 * 4096
    assert bool((signal == 1).all())
    assert signal.untyped_storage().nbytes() == signal.nbytes


def test_a_chunk_is_measured_by_its_own_frames():
    layout = TokenLayout(3, 1, 1, (1, 2))
    scope = ClipState.start("all", layout, torch.device("cpu"))
    tokens, levels = torch.zeros(1, 3, 2), torch.tensor([0.9, 0.8, 0.8])
    before = torch.full((3, 6, 2), 4.0)
    after = before + torch.tensor([0.4, 1.0, 2.0])[:, None, None]
    assert measure(scope, IDENTITY, tokens, before, levels) == [None, None]
    found = [float(d) for d in measure(scope, IDENTITY, tokens, after, levels)]
    assert found == pytest.approx([0.1, 0.5])
    # one timestep for the clip serves both
    single = measure(scope, IDENTITY, tokens, torch.full((1, 6, 2), 3.3), levels)
    assert float(single[0]) == pytest.approx(1.1 / 4.4)
