"""The profile file: what it makes of a recording, and what it refuses."""

import json
import math
from itertools import pairwise

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError, ProfileError
from motioncache_pack.motioncache_core.policy.model_profile import MIN_LEVELS, Changes, ModelProfile

LEVELS = (1.0, 0.9, 0.8, 0.6, 0.4, 0.3)
CHANGES = Changes(LEVELS, (0.1,) * 5, (0.2,) * 5, (0.5, 0.4, 0.3, 0.2, 0.1))
PROFILE = ModelProfile("Wan 128 wide, 2 blocks", "0123456789abcdef", CHANGES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "wan-0123456789abcdef.json"


def test_changes_are_the_means_of_the_branches():
    levels = (1.0, 0.8, 0.5, 0.4, 0.3, 0.2)
    found = {
        pair: [[0.1, 0.2, 0.3 + i], [0.3, 0.4, 0.5 + i]] for i, pair in enumerate(pairwise(levels))
    }
    made = Changes.of(dict(reversed(found.items())))
    assert made.sigmas == levels
    assert made.input_change == pytest.approx([0.2] * 5)
    assert made.embedding_change == pytest.approx([0.3] * 5)
    assert made.output_change == pytest.approx([0.4, 1.4, 2.4, 3.4, 4.4])


def test_a_recording_that_says_too_little_makes_no_changes():
    levels = [1.0 - 0.1 * i for i in range(MIN_LEVELS)]
    found = {pair: [[0.1] * 3] for pair in pairwise(levels)}
    assert Changes.of(found) is not None
    few = dict(list(found.items())[1:])
    gap = {p: found[p] for p in found if p != (levels[2], levels[3])}
    gap |= {(0.1, 0.05): [[0.1] * 3], (0.05, 0.01): [[0.1] * 3]}
    unknown = found | {(levels[2], levels[3]): [[0.1, 0.1, math.nan]]}
    assert [Changes.of(f) for f in (few, gap, unknown)] == [None] * 3


def travelled(profile, a, b):
    measure = profile.distance().to(torch.device("cpu"))
    levels = (torch.tensor(s, dtype=torch.float64) for s in (a, b))
    return float(measure.between(*(measure.signal(None, None, s) for s in levels)))


def test_the_distance_is_what_was_recorded():
    for a, b, wanted in ((1.0, 0.9, 0.5), (1.0, 0.3, 1.5), (0.8, 0.7, 0.15), (0.4, 0.3, 0.1)):
        assert travelled(PROFILE, a, b) == pytest.approx(wanted)
    # the rate of the last interval goes on: 0.1 for 0.1
    assert travelled(PROFILE, 0.3, 0.0) == pytest.approx(0.3)
    assert travelled(PROFILE, 0.3, 0.15) == pytest.approx(0.15)


def test_a_file_is_read_as_it_was_written(path):
    PROFILE.dump(path)
    read = ModelProfile.load(path, PROFILE.fingerprint)
    assert read == PROFILE and read.name == path.name
    assert read.distance().name == f"calibrated profile ({PROFILE.model}, {path.name})"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_run_beyond_the_recording_is_told():
    for end, sigmas, fine in (
        (0.0, (1.0, 0.5, 0.02), True),
        (0.0, (0.5,), True),
        (0.25, (1.0, 0.3), True),
        (0.25, (1.0, 0.2), False),
        (0.0, (1.2, 0.5), False),
    ):
        words = ModelProfile("m", "f", CHANGES, end, "file.json").uncovered(sigmas)
        assert (words is None) == fine
        assert fine or ("file.json" in words and f"{min(sigmas):.3g}" in words)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "other"}, "no profile of MotionCache"),
        ({"schema": 2}, "version 2, this MotionCache reads 1"),
        ({"schema": None}, "version None"),
        ({"sigmas": None}, "damaged .*sigmas"),
        ({"sigmas": [1, 0.5]}, "2 noise levels"),
        ({"sigmas": [1.0, 0.9, 0.9, 0.6, 0.4, 0.3]}, "do not descend"),
        ({"end": 0.3}, "do not descend"),
        ({"output_change": [0.1, 0.2]}, "damaged"),
        ({"output_change": [0.1, 0.2, -0.1, 0.1, 0.1]}, "negative"),
        ({"output_change": [0.1, 0.2, math.nan, 0.1, 0.1]}, "not finite"),
        ({"output_change": [0.1, 0.2, "x", 0.1, 0.1]}, "damaged"),
        ({"output_change": 0.1}, "damaged"),
        ({"fingerprint": "ffff"}, "another model .*Wan 128 wide, 2 blocks"),
    ],
)
def test_a_wrong_file_is_named_with_what_to_do(path, fields, said):
    PROFILE.dump(path)
    data = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), "utf-8")
    with pytest.raises(ProfileError, match=said) as error:
        ModelProfile.load(path, PROFILE.fingerprint)
    assert str(path) in str(error.value)
    assert "run MotionCache Calibrate again" in str(error.value)
    assert isinstance(error.value, MotionCacheError)


def test_a_corrupt_file_is_named(path):
    path.parent.mkdir()
    for content in (b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 5):
        path.write_bytes(content)
        with pytest.raises(ProfileError, match="deep"):
            ModelProfile.load(path, PROFILE.fingerprint)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    PROFILE.dump(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        ModelProfile("other", "f" * 16, CHANGES).dump(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
