"""The contract of a family, on ComfyUI's own networks of Wan's family: what its loader makes, in
the calls that its sampler makes."""

import functools
from dataclasses import replace

import pytest
from motioncache_pack.tests.models.test_contract import (  # noqa: F401
    test_a_dense_evaluation_is_bit_identical_and_stores_what_the_blocks_added,
    test_a_subset_on_changed_input_is_the_oracles,
    test_a_subset_on_unchanged_input_is_dense,
    test_all_rows_active_is_dense,
    test_an_exception_leaves_nothing,
    test_keys_are_forecast_for_the_video_alone,
    test_off_is_bit_identical,
    test_prompts_never_mix,
    test_what_is_underneath_stays_in_force,
)
from motioncache_pack.tests.support import host_wan

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("no_gradients")]

made = functools.cache(host_wan.family)


@pytest.fixture(params=host_wan.VARIANTS)
def family(request, host):
    return made(host, host_wan.VARIANTS[request.param])


@pytest.mark.parametrize("name", host_wan.VARIANTS)
def test_another_size(host, name, monkeypatch):
    variant = host_wan.VARIANTS[name]
    variant = replace(variant, size=variant.other)
    test_a_subset_on_changed_input_is_the_oracles(
        host_wan.family(host, variant), "gpu", monkeypatch
    )
