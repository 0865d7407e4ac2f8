"""HunyuanVideo: one class of the host serves videos, images and upscaling; and what goes wrong
where its rows are not told as they are."""

from dataclasses import replace

import pytest
import torch
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.adapter import nothing_around
from motioncache_pack.motioncache_core.models.block_stream import rows_around
from motioncache_pack.motioncache_core.models.hunyuan_video import HUNYUAN_VIDEO
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.support.assert_close import assert_same, relative_error
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.toy_hunyuan import CHANNELS, WIDTH, HunyuanVideo


def ask(run, call, **more):
    return run.call(call.x, call.t, call.context, **call.more, **more)


def error(monkeypatch, family, *plan, step=0):
    """Of the last call of a plan, all on the same input."""
    dictate(monkeypatch, *plan)
    run, call = Run(family.network), family.call(step, 0)
    for _ in plan:
        got = ask(run, call)
    return relative_error(call.run(family.network, {}), got)


def test_images_and_upscaling_are_told_apart():
    video, image, upscaler = HunyuanVideo(), HunyuanVideo(), HunyuanVideo()
    image.patch_size, upscaler.in_channels = [2, 2], 98
    assert registry.find_adapter(video) == (HUNYUAN_VIDEO, None)
    for network, why in ((image, "makes images"), (upscaler, "upscaling")):
        adapter, reason = registry.find_adapter(network)
        assert adapter is HUNYUAN_VIDEO and why in reason
        assert code_of(reason) == "model_variant"


def test_sizes_are_the_instances():
    facts = HUNYUAN_VIDEO.facts(HunyuanVideo(3, 0))
    assert facts.blocks == (3, 0) and not facts.image_to_video
    assert (facts.key_width, facts.row_work, facts.pair_work) == (WIDTH, 12 * WIDTH**2, 2 * WIDTH)
    assert HUNYUAN_VIDEO.key_sites(facts) == 3
    wider = HunyuanVideo()
    wider.in_channels = 2 * CHANNELS + 1
    assert HUNYUAN_VIDEO.facts(wider).image_to_video


def test_a_control_net_passes_through():
    family = FAMILIES["hunyuan video"]()
    run, call = Run(family.network), family.call(0, 0)
    control = torch.randn(1, family.tokens, WIDTH)
    wanted = family.network(call.x, call.t, call.context, control=control)
    got = run.call(call.x, call.t, call.context, control=control)
    assert_same("answer", wanted, got)
    assert code_of(run.trace.reason) == "control_net"


def test_a_patch_of_attentions_answer_passes_through():
    family = FAMILIES["hunyuan video"]()
    run, call = Run(family.network), family.call(0, 0)
    options = {"patches": {"attn1_output_patch": [lambda x, _: x]}}
    assert_same("answer", call.run(family.network, {}), ask(run, call, options=options))
    assert code_of(run.trace.reason) == "block_patch"


def test_a_first_frame_that_is_given_is_no_frame_of_the_map(monkeypatch):
    given, plain = FAMILIES["hunyuan video, first frame given"](), FAMILIES["hunyuan video"]()
    grids = []
    for family in (given, plain):
        dictate(monkeypatch, "dense")
        run = Run(family.network)
        ask(run, family.call(0, 0))
        grids.append(run.trace.grid)
    assert grids == [(2, 3, 4), (3, 3, 4)]


def test_text_and_conditions_count_as_work(monkeypatch):
    """Shares of rows and of work: text (5) and the first frame (12) are computed with any row."""
    family = FAMILIES["hunyuan video, first frame given"]()
    dictate(monkeypatch, "dense", random_rows(24, 6, 0), "reuse")
    run, call = Run(family.network), family.call(0, 0)
    for _ in range(3):
        ask(run, call)
    summary = RunSummary(run.trace)
    row, pair = 12 * WIDTH**2, 2 * WIDTH
    assert summary.compute_share == (41 + 23) / (3 * 41)
    work = row * (41 + 23) + pair * (41 * 41 + 23 * 41)
    assert summary.flops_share == work / (3 * (row * 41 + pair * 41 * 41))


ROWS = random_rows(24, 8, 4)
GIVEN = "hunyuan video, first frame given"


@pytest.mark.parametrize("name", [GIVEN, "hunyuan video, more text than a frame"])
def test_ranges_of_modulation_have_to_end_where_their_rows_do(name, monkeypatch):
    """With the given frame taken for any other, its rows shift, and the host's ranges do not."""
    family = FAMILIES[name]()
    rows = [*ROWS, *range(24, 36)]
    assert error(monkeypatch, family, "dense", ROWS) < 1e-5
    bare = replace(HUNYUAN_VIDEO, around=nothing_around)
    monkeypatch.setattr(registry, "ADAPTERS", (bare,))
    assert error(monkeypatch, family, "dense", rows) > 0.01


def test_a_reference_is_no_video(monkeypatch):
    family = FAMILIES["hunyuan video, reference"]()
    bare = replace(HUNYUAN_VIDEO, around=nothing_around)
    monkeypatch.setattr(registry, "ADAPTERS", (bare,))
    dictate(monkeypatch, "dense")
    run, call = Run(family.network), family.call(0, 0)
    assert_same("answer", call.run(family.network, {}), ask(run, call))
    # four frames are taken for the video, and one of them is none
    assert run.trace.grid == (4, 3, 4)


def test_rotary_rows_go_with_their_tokens(monkeypatch):
    family, rows = FAMILIES["hunyuan video"](), random_rows(36, 9, 2)

    def by_place(args, gather):
        n = rows_around(args)[0] + 5 + len(rows)
        return {**args, "pe": args["pe"][:, :, :n]}

    double = replace(HUNYUAN_VIDEO.runs[0], take=by_place)
    adapter = replace(HUNYUAN_VIDEO, runs=(double, HUNYUAN_VIDEO.runs[1]))
    monkeypatch.setattr(registry, "ADAPTERS", (adapter,))
    assert error(monkeypatch, family, "dense", rows) > 0.001
