"""What is run for a contestant, on a host that only pretends."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

STEPS, WANTED = 12, (4, 6)


class Host:
    """Computes every so many steps, the farther from the uncached video the fewer."""

    def __init__(self, sampled, broken=False):
        self.sampled, self.broken, self.made = sampled, broken, []

    def model(self, clip):
        return clip

    def plain(self, clip):
        return self.sample(clip, clip)

    def sample(self, model, clip, dry=False):
        settings = getattr(model, "settings", {"every": 1})
        frames, each = clip.frames, 10 * clip.frames
        steps = [1 + i // settings["every"] for i in range(clip.steps)]
        self.made.append((clip.index, dry, settings))
        wrong = settings["every"] - 1
        if self.broken and model is not clip:
            wrong += 1
        video = torch.full((frames, 2, 2, 3), 0.5 + wrong / 100)
        return self.sampled(video, video, steps[-1] * each, tuple(s * each for s in steps))


@pytest.fixture
def world(bench, tmp_path):
    """A model with three clips, its host and the contestant `every`."""
    measure, host = bench("rivals.measure"), bench("rivals.host")
    contestants, packs = bench("rivals.contestants"), bench("rivals.packs")
    store = bench("run_store").Store

    def clip(index, steps):
        made = SimpleNamespace(index=index, steps=steps, frames=5, from_image=False)
        made.first_frame = lambda: SimpleNamespace(index=index, steps=steps, frames=1)
        return made

    class Node:
        FUNCTION = "go"

        def go(self, model, **settings):
            return (SimpleNamespace(**vars(model), settings=settings),)

    def made(broken=False, **changes):
        one = contestants.Contestant(
            "every", None, "", "Node", {}, {"every": 1}, {"every": (1, 2, 3), "same": (0, 1)},
            **changes,
        )  # fmt: skip
        fake = Host(host.Sampled, broken)
        kept = store(tmp_path / "runs.jsonl")
        model = measure.Model(fake, clip, 3, STEPS, WANTED, kept, "tiny")
        loaded = packs.Loaded({"Node": Node}, "", "1")
        return SimpleNamespace(model=model, host=fake, measure=lambda: model.measure(one, loaded))

    return made


def test_settings_that_compute_the_same_run_once(world):
    made = world()
    entry = made.measure()
    assert entry["tried"] == 6
    assert entry["at"]["4"]["evaluations"] == [4] * 3 and entry["at"]["6"]["evaluations"] == [6] * 3
    assert entry["at"]["4"]["psnr"][0] == pytest.approx(-20 * math.log10(0.02), abs=1e-3)
    assert entry["at"]["4"]["settings"] == [{"every": 3, "same": 0}]
    real = [m for m in made.host.made if not m[1] and m[2]["every"] > 1]
    # every 2 and every 3, on three clips
    assert len(real) == 6


def test_a_knob_that_does_not_change_the_count_is_tried(world):
    made = world(free=("same",))
    made.measure()
    dry = [m for m in made.host.made if m[1]]
    # what is computed is found out once for all values of it
    assert len(dry) == 3
    first = [m for m in made.host.made if not m[1] and m[0] == 0 and m[2]["every"] == 3]
    later = [m for m in made.host.made if not m[1] and m[0] == 1 and m[2]["every"] == 3]
    assert (len(first), len(later)) == (2, 1)


def test_thresholds_are_scanned_without_a_plan(world):
    made = world(scheduled=False)
    assert made.measure()["at"]["6"]["evaluations"] == [6] * 3
    assert not any(m[1] for m in made.host.made)


def test_finished_runs_are_not_made_again(world):
    first = world().measure()
    again = world()
    assert again.measure() == first and again.host.made == []


def test_who_changes_the_video_without_reusing_has_no_number(world):
    why = world(broken=True).measure()["why"]
    assert why.startswith("told to reuse nothing it does not make the uncached video (")


def test_fewer_steps_are_what_a_user_could_do(world):
    found = world().model.fewer_steps()
    assert found["at"]["4"]["evaluations"] == [4] * 3
