"""Options of diffusion forcing: what is refused, and that the widgets' ranges are theirs."""

import math

import pytest
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.sampling.options import (
    FORCING_CHOICES,
    FORCING_RANGES,
    ForcingOptions,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_frames": 0}, "chunk_frames is 0"),
        ({"chunk_frames": 2.5}, "whole number"),
        ({"chunk_frames": True}, "whole number"),
        ({"chunk_delay": -1}, "chunk_delay is -1"),
        ({"condition_noise": 0.3}, "allowed are 0 to 0.2"),
        ({"condition_noise": math.nan}, "give a number"),
        ({"solver": "heun"}, "'unipc', 'euler'"),
        ({"attention": "causal"}, "'block_causal', 'bidirectional'"),
        ({"window_frames": 12}, "take 10 or 15"),
        ({"window_frames": 20, "overlap_frames": 3}, "take 0 or 5"),
        ({"window_frames": 20, "overlap_frames": 20}, "must be smaller"),
        ({"overlap_frames": 5}, "window_frames is 0"),
        ({"kv_keep": 2, "attention": "bidirectional"}, "kv_keep is 2"),
    ],
)
def test_bad_options_are_refused(changes, words):
    with pytest.raises(SettingsError, match=words):
        ForcingOptions(**changes)


def test_the_widgets_ranges_are_what_the_options_accept():
    for name, (low, high) in FORCING_RANGES.items():
        # 240 is a multiple of every chunk that the windows are tried with
        base = {"window_frames": 240} if name == "overlap_frames" else {}
        top = 239 if name == "overlap_frames" else high
        for value in (low, top):
            changes = {"chunk_frames": 1, **base, name: value}
            assert getattr(ForcingOptions(**changes), name) == value
        with pytest.raises(SettingsError, match=name):
            ForcingOptions(**{name: high + 1})
    for name, choices in FORCING_CHOICES.items():
        assert [getattr(ForcingOptions(**{name: c}), name) for c in choices] == list(choices)
