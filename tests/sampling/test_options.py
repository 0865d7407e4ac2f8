"""Options of diffusion forcing that contradict each other."""

import pytest
from motioncache_pack.motioncache_core.common.errors import SettingsError
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window_frames": 12}, "take 10 or 15"),
        ({"window_frames": 20, "overlap_frames": 3}, "take 0 or 5"),
        ({"window_frames": 20, "overlap_frames": 20}, "must be smaller"),
        ({"overlap_frames": 5}, "window_frames is 0"),
        ({"kv_keep": 2, "attention": "bidirectional"}, "kv_keep is 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, words):
    with pytest.raises(SettingsError, match=words):
        ForcingOptions(**changes)
