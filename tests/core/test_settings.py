"""Settings are frozen and checked; a message names what was given and what is allowed."""

import dataclasses
import math
import pickle

import pytest
from motioncache_pack.motioncache_core.common.errors import MotionCacheError, SettingsError
from motioncache_pack.motioncache_core.settings import (
    CHOICES,
    PRESETS,
    RANGES,
    MotionCacheSettings,
)

FIELDS = {f.name: str(f.type) for f in dataclasses.fields(MotionCacheSettings)}
WHOLE = sorted(n for n, kind in FIELDS.items() if kind == "int")
REAL = sorted(n for n, kind in FIELDS.items() if kind == "float")
SWITCHES = sorted(n for n, kind in FIELDS.items() if kind == "bool")


def refused(**changes):
    with pytest.raises(SettingsError) as error:
        MotionCacheSettings(**changes)
    return str(error.value)


def test_every_field_is_checked_by_a_range_a_choice_or_a_switch():
    assert set(RANGES) == {*WHOLE, *REAL}
    assert set(CHOICES) == {n for n, kind in FIELDS.items() if kind == "str"}
    assert set(RANGES) | set(CHOICES) | set(SWITCHES) == set(FIELDS)


def test_the_published_ranges():
    assert RANGES == {
        "warmup_steps": (1, 100),
        "motion_sensitivity": (0.0, 1.0),
        "reuse_threshold": (0.0, 10.0),
        "uniform_updates": (0, 1000),
        "agreement": (0.0, 0.99),
        "min_update_ratio": (0.0, 1.0),
        "max_stale_steps": (0, 1000),
        "end_percent": (0.0, 1.0),
        "forecast": (0.0, 1.0),
        "kv_forecast": (0.0, 1.0),
        "update_share": (0.0, 1.0),
        "compute_budget": (0.0, 1.0),
        "correction": (0.0, 1.0),
    }


@pytest.mark.parametrize("name", sorted(RANGES))
def test_both_ends_of_a_range_are_allowed(name):
    kind = int if name in WHOLE else float
    for value in RANGES[name]:
        assert getattr(MotionCacheSettings(**{name: kind(value)}), name) == value


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("name", sorted(RANGES))
def test_outside_a_range_is_refused(name, side):
    low, high = RANGES[name]
    step = 1 if name in WHOLE else 0.005
    value = low - step if side == "below" else high + step
    value = int(value) if name in WHOLE else value
    message = refused(**{name: value})
    assert name in message
    assert str(value) in message
    assert f"{low:g} to {high:g}" in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5", None, True, [0.5], 1j])
@pytest.mark.parametrize("name", REAL)
def test_a_number_must_be_a_finite_number(name, value):
    message = refused(**{name: value})
    assert name in message
    assert repr(value) in message
    assert "a number from" in message


@pytest.mark.parametrize("value", [1.0, 2.5, math.nan, "3", None, True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_must_be_whole(name, value):
    message = refused(**{name: value})
    assert name in message
    assert repr(value) in message
    assert "a whole number from" in message


@pytest.mark.parametrize("name", REAL)
def test_a_whole_number_serves_as_a_number(name):
    assert getattr(MotionCacheSettings(**{name: 0}), name) == 0


def test_a_number_too_large_for_a_float_is_refused():
    assert "warmup_steps" in refused(warmup_steps=10**400)


@pytest.mark.parametrize("value", ["Motion", "", "tokens", None, 1, True, ["motion"]])
@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_choice_must_be_one_of_the_list(name, value):
    message = refused(**{name: value})
    assert name in message
    assert repr(value) in message
    assert all(repr(choice) in message for choice in CHOICES[name])


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_choice_is_allowed(name):
    for choice in CHOICES[name]:
        assert getattr(MotionCacheSettings(**{name: choice}), name) == choice


@pytest.mark.parametrize("value", [0, 1, None, "yes", 1.0])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_must_be_true_or_false(name, value):
    message = refused(**{name: value})
    assert name in message
    assert repr(value) in message
    assert "True or False" in message


def test_the_error_is_a_value_error_of_the_pack():
    assert issubclass(SettingsError, ValueError)
    assert issubclass(SettingsError, MotionCacheError)


def test_settings_are_frozen_and_hashable():
    settings = MotionCacheSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.reuse_threshold = 0.5
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        settings.new_name = 1
    assert hash(settings) == hash(MotionCacheSettings())
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_replacing_a_field_checks_again():
    with pytest.raises(SettingsError, match="agreement"):
        dataclasses.replace(MotionCacheSettings(), agreement=1.0)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_keeps_the_rest_when_a_field_is_changed(name):
    changed = MotionCacheSettings.preset(name, motion_sensitivity=0.25, verbose=True)
    assert changed == dataclasses.replace(PRESETS[name], motion_sensitivity=0.25, verbose=True)
    assert MotionCacheSettings.preset(name) == PRESETS[name]


def test_presets_are_the_documented_four_from_safe_to_fast():
    assert set(PRESETS) == {"quality", "balanced", "fast", "paper"}
    budgets = [PRESETS[n].compute_budget for n in ("quality", "balanced", "fast")]
    assert 1 > budgets[0] > budgets[1] > budgets[2] > 0 == PRESETS["paper"].compute_budget


def test_the_paper_preset_is_the_published_script():
    paper = MotionCacheSettings.preset("paper").as_dict()
    published = {
        "policy": "motion",
        "warmup_steps": 5,
        "uniform_updates": 6,
        "reuse_threshold": 0.1,
        "motion_sensitivity": 0.4,
        "agreement": 0.5,
        "min_update_ratio": 0.4,
        "max_stale_steps": 0,
        "motion_source": "features",
        "cfg_mask": "separate",
        "dense_last": False,
        "clamp_distance": False,
        "forecast": 0.0,
        "kv_forecast": 0.0,
        "update_share": 0.0,
        "compute_budget": 0.0,
        "correction": 0.0,
        "end_percent": 1.0,
    }
    assert {name: paper[name] for name in published} == published


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(SettingsError) as error:
        MotionCacheSettings.preset("turbo")
    assert "'turbo'" in str(error.value)
    assert all(repr(name) in str(error.value) for name in PRESETS)


def test_an_unknown_or_wrong_change_of_a_preset_is_refused():
    with pytest.raises(SettingsError, match="treshold") as error:
        MotionCacheSettings.preset("fast", treshold=0.1)
    assert "reuse_threshold" in str(error.value)
    with pytest.raises(SettingsError, match="warmup_steps is 0"):
        MotionCacheSettings.preset("fast", warmup_steps=0)


def test_as_dict_has_every_field():
    assert set(MotionCacheSettings().as_dict()) == set(FIELDS)
