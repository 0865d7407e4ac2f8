"""Options are frozen and checked; a message names what was given and what is allowed."""

import dataclasses
import math
import pickle

import pytest
from motioncache_pack.motioncache_core import ForcingOptions
from motioncache_pack.motioncache_core.common.errors import MotionCacheError, SettingsError
from motioncache_pack.motioncache_core.common.field_checks import declared
from motioncache_pack.motioncache_core.settings import PRESETS, MotionCacheSettings

FIELDS = [
    pytest.param(options, field.name, str(field.type), id=field.name)
    for options in (MotionCacheSettings, ForcingOptions)
    for field in dataclasses.fields(options)
]
# never allowed, by the type that a field is written with
WRONG = {
    "bool": (0, 1, None, "yes", 1.0),
    "str": ("", "Motion", "tokens", None, 1, True, ["motion"]),
    "int": (1.0, 2.5, math.nan, math.inf, "3", None, True, False),
    "float": (math.nan, math.inf, -math.inf, "0.5", None, True, [0.5], 1j),
}
# too large for a float
ENDLESS = 10**400
# fields that have to fit others: what makes their whole range fit, but for an overlap of all
BESIDE = {
    "policy": {"compute_budget": 0.4},
    "window_frames": {"chunk_frames": 1},
    "overlap_frames": {"chunk_frames": 1, "window_frames": 4096},
}
TOP = {"overlap_frames": 4095}


def values(name, kind, declaration):
    """Values that are allowed, and those that are not, each with what its error says."""
    low, high = declaration.limits
    if kind == "bool":
        good, bad, words = (True, False), {}, "give True or False"
    elif kind == "str":
        good, bad = declaration.choices, {}
        words = f"allowed are {', '.join(map(repr, good))}"
    else:
        top, step = TOP.get(name, high), 1 if kind == "int" else 0.001
        good = (low, top) if kind == "int" else (low, top, float(low), float(top), 0)
        words = f"give {'a whole number' if kind == 'int' else 'a number'} from {low:g} to {high:g}"
        beyond = f"allowed are {low:g} to {high:g}{declaration.hint}"
        bad = dict.fromkeys((low - step, high + step, ENDLESS, -ENDLESS), beyond)
    return good, [*((value, words) for value in WRONG[kind]), *bad.items()]


@pytest.mark.parametrize(("options", "name", "kind"), FIELDS)
def test_a_field_takes_what_it_declares_and_nothing_else(options, name, kind):
    good, bad = values(name, kind, declared(options)[name])
    assert good
    for value in good:
        made = getattr(options(**BESIDE.get(name, {}), **{name: value}), name)
        assert made == value and type(made) is type(value)
    for value, words in bad:
        with pytest.raises(SettingsError) as error:
            options(**BESIDE.get(name, {}), **{name: value})
        assert str(error.value) == f"{name} is {value!r}; {words}"


def test_an_error_of_the_vote_says_why_its_range_ends_early():
    with pytest.raises(SettingsError, match=r"0 to 0\.99 \(the vote needs more than this share\)$"):
        MotionCacheSettings(agreement=1.0)


def test_the_error_is_a_value_error_of_the_pack():
    assert issubclass(SettingsError, ValueError)
    assert issubclass(SettingsError, MotionCacheError)


@pytest.mark.parametrize("kind", [MotionCacheSettings, ForcingOptions])
def test_options_are_frozen_hashable_and_no_more_than_their_fields(kind):
    options = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(kind)[0].name, "step")
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        options.new_name = 1
    copied = kind(**dataclasses.asdict(options))
    assert copied == options and hash(copied) == hash(options)
    assert pickle.loads(pickle.dumps(options)) == options


def test_settings_as_a_dict_are_their_fields_in_order():
    settings = MotionCacheSettings.preset("paper")
    names = [field.name for field in dataclasses.fields(settings)]
    assert list(settings.as_dict().items()) == [(name, getattr(settings, name)) for name in names]


def test_a_preset_keeps_the_rest_when_a_field_is_changed():
    for name, preset in PRESETS.items():
        changed = MotionCacheSettings.preset(name, motion_sensitivity=0.25, verbose=True)
        assert changed == dataclasses.replace(preset, motion_sensitivity=0.25, verbose=True)
        assert MotionCacheSettings.preset(name) == preset


def test_presets_are_the_documented_six_from_safe_to_fast():
    assert list(PRESETS) == ["off", "quality", "balanced", "fast", "motion", "paper"]
    assert PRESETS["off"].reuse_threshold == 0
    budgets = [PRESETS[n].compute_budget for n in ("quality", "balanced", "fast")]
    assert 1 > budgets[0] > budgets[1] > budgets[2] > 0 == PRESETS["paper"].compute_budget
    for name in ("quality", "fast"):
        of_balanced = dataclasses.replace(PRESETS[name], compute_budget=budgets[1])
        assert of_balanced == PRESETS["balanced"]
    answers = [name for name, preset in PRESETS.items() if preset.traits.answers]
    assert answers == ["quality", "balanced", "fast"]


def test_balanced_with_policy_motion_is_preset_motion_but_for_its_warm_up():
    """Who changes the policy alone, as in the settings node, has what was tuned for it."""
    motion = PRESETS["motion"]
    changed = MotionCacheSettings.preset(
        "balanced", policy="motion", warmup_steps=motion.warmup_steps
    )
    assert changed == motion


def test_whole_evaluations_go_by_a_budget():
    with pytest.raises(SettingsError, match=r"policy is 'answer'.*Set compute_budget"):
        MotionCacheSettings(policy="answer")
    # nothing is computed less often, so nothing has to say how often
    assert MotionCacheSettings(policy="answer", reuse_threshold=0.0).compute_budget == 0


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


def test_an_unknown_preset_or_change_lists_the_known_ones():
    with pytest.raises(SettingsError) as error:
        MotionCacheSettings.preset("turbo")
    assert "'turbo'" in str(error.value)
    assert all(repr(name) in str(error.value) for name in PRESETS)
    with pytest.raises(SettingsError, match="treshold") as error:
        MotionCacheSettings.preset("fast", treshold=0.1)
    assert "reuse_threshold" in str(error.value)
    with pytest.raises(SettingsError, match="warmup_steps is 0"):
        MotionCacheSettings.preset("fast", warmup_steps=0)
