"""Choosing, counting and telling of the rivals' bench, without a rival and without ComfyUI."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

PACK = """
from {module} import gone
from .part import NODE_CLASS_MAPPINGS
"""
PART = """
class Node:
    FUNCTION = "go"

    def go(self, model, strength):
        return (f"{model} at {strength}",)


NODE_CLASS_MAPPINGS = {"Node": Node}
"""


@pytest.fixture
def pack(tmp_path):
    """Writes a node pack that imports `gone` from a module."""

    def made(name, module):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(PACK.format(module=module), "utf-8")
        (folder / "part.py").write_text(PART, "utf-8")
        return folder

    return made


def runs(bench, *clips):
    run = bench("rivals.table").Run
    return [[run(*values) for values in clip] for clip in clips]


def test_a_run_is_the_nearest_count_at_or_above(bench):
    table = bench("rivals.table")
    found = runs(bench, [(0, 6, 99.0), (1, 9, 30.0), (2, 11, 50.0)], [(0, 8, 40.0), (1, 7, 20.0)])
    first, second = table.at(found, 8)
    assert (first.setting, first.evaluations) == (1, 9)
    assert (second.setting, second.evaluations) == (0, 8)
    assert table.at(found, 10)[1] is None


def test_of_equal_counts_the_settings_that_are_best_over_all_clips(bench):
    found = runs(bench, [(0, 8, 40.0), (1, 8, 41.0)], [(0, 8, 40.0), (1, 8, 30.0)])
    assert [r.setting for r in bench("rivals.table").at(found, 8)] == [0, 0]


def test_settings_of_one_lucky_clip_do_not_win(bench):
    found = runs(bench, [(0, 8, 40.0), (1, 8, 60.0)], [(0, 8, 40.0)])
    assert [r.setting for r in bench("rivals.table").at(found, 8)] == [0, 0]


def test_a_run_that_went_wrong_is_none(bench):
    found = runs(bench, [(0, 8, math.nan), (1, 9, 20.0)], [(0, 8, math.nan)])
    first, second = bench("rivals.table").at(found, 8)
    assert first.setting == 1 and second is None


def test_the_best_of_a_clip_go_on_with_their_neighbours(bench):
    table = bench("rivals.table")
    (clip,) = runs(bench, [(i, 12 - i, 50.0 + i) for i in range(6)] + [(6, 10, 80.0)])
    assert table.promising(clip, [8, 10], count=1, beside=0) == [4, 6]
    assert table.promising(clip, [10], count=2, beside=0) == [2, 6]
    assert table.promising(clip, [8], count=1, beside=1) == [3, 4, 5]


def test_rows_make_evaluations(bench):
    rows = bench("rivals.counting").Rows
    assert rows(240).evaluations(24) == 10
    # a part of the tokens of one
    assert rows(252).evaluations(24) == 10.5


def test_calls_are_counted_however_a_block_is_called(bench):
    counted = bench("rivals.counting").counted

    class Block(torch.nn.Module):
        def forward(self, x, scale):
            return x * scale

    blocks = [Block(), Block()]
    x = torch.ones(2, 5, 3)
    with counted(blocks) as rows:
        assert blocks[0](x, 2.0).sum() == 60
        blocks[1].forward(x=x, scale=1.0)
    assert rows.seen == 2 * 2 * 5
    with counted(blocks, dry=True) as rows:
        assert blocks[0](x, 2.0) is x
    assert rows.seen == 10
    blocks[0](x, 1.0)
    assert rows.seen == 10


ABOUT = {
    "comfyui": "1", "sampler": "euler", "steps": 24, "frames": 5, "seed": 3, "device": "cpu",
    "torch": "2",
}  # fmt: skip


@pytest.fixture
def results(bench, tmp_path):
    """Opens the same file anew, at a model."""

    def made(model="demo", weights="a", uncached="b", **about):
        found = bench("rivals.results").Results(
            tmp_path / "rivals.json", ABOUT | about, f"measure {model}", "abc"
        )
        found.model(model, weights, uncached)
        return found

    return made


def put(bench, results, who, *values, at="8"):
    table = bench("rivals.table")
    entry = {"at": {at: table.told([table.Run(0, float(at), v) for v in values], [{}])}}
    results.put(next(iter(reversed(results.data["models"]))), who, entry, how="x", version="1")
    results.save()
    return results.data


def test_commands_fill_one_file(bench, results):
    put(bench, results(), "MotionCache", 50.0, 51.0, 52.0)
    put(bench, results("text"), "MotionCache", 30.0)
    # a rival that ran on fewer clips and at one more count, on the first model
    opened = results("text")
    put(bench, opened, "rival", 29.0, 28.0, at="10")
    data = put(bench, opened, "rival", 28.5)
    assert data["evaluations"] == [8] and data["seeds"] == [3, 4, 5]
    assert data["models"]["text"]["ahead"]["ours - rival"]["8"]["mean"] == 1.5
    assert data["models"]["text"]["contestants"]["rival"]["command"] == "measure text"
    assert list(data["models"]["demo"]["contestants"]) == ["MotionCache"]
    assert json.loads(opened.path.read_text("utf-8")) == data
    rows = bench("rivals.table").page(data).splitlines()
    assert "| MotionCache | 30.0 (1 clips) |" in rows and "| rival | 28.5 (1 clips); +1.5 |" in rows


@pytest.mark.parametrize("change", ({"weights": "z"}, {"uncached": "z"}))
def test_figures_of_another_video_go(bench, results, change):
    put(bench, results(), "MotionCache", 50.0)
    assert results(**change).data["models"]["demo"]["contestants"] == {}


def test_figures_of_other_runs_share_no_file(bench, results):
    put(bench, results(), "MotionCache", 50.0)
    with pytest.raises(SystemExit, match="is of steps 24, this run of 20"):
        results(steps=20)


def test_nothing_chosen_is_nothing_told(bench):
    table = bench("rivals.table")
    assert table.told([None, None], []) is None
    assert table.ahead(None, {"psnr": [1.0]}) is None


def test_a_missing_name_is_lent_while_a_pack_is_loaded(bench, pack, monkeypatch):
    packs = bench("rivals.packs")
    module = type(sys)("module_without_it")
    monkeypatch.setitem(sys.modules, "module_without_it", module)
    folder = pack("Pack", "module_without_it")
    monkeypatch.setattr(packs, "SHIMS", (packs.Shim("module_without_it", "gone"),))
    loaded = packs.load(folder, "part")
    # the file of the node does not need the name
    assert loaded.how.startswith("part.py alone (as it is: ImportError: cannot import name 'gone'")
    assert str(folder) not in loaded.how and loaded.version.startswith("code ")
    with packs.shimmed(packs.SHIMS) as used:
        assert used == ["module_without_it.gone"]
        with pytest.raises(NotImplementedError, match="is not in this ComfyUI"):
            module.gone()
    assert not hasattr(module, "gone")


def test_a_pack_that_cannot_be_had_says_so(bench, pack, tmp_path, monkeypatch):
    packs = bench("rivals.packs")
    with pytest.raises(packs.NotLoadedError, match="no folder Absent"):
        packs.load(tmp_path / "Absent", "nodes")
    folder = pack("Pack", "os")
    (folder / "part.py").write_text("import no_such_module", "utf-8")
    monkeypatch.setattr(packs, "SHIMS", ())
    with pytest.raises(packs.NotLoadedError, match=r"name 'gone' .*: No module named 'no_such"):
        packs.load(folder, "part")


def test_a_node_is_run_by_the_name_that_it_gives(bench, pack):
    known = bench("rivals.contestants")
    loaded = bench("rivals.packs").load(pack("Pack", "__future__"), "part")
    one = known.Contestant("x", "Pack", "part", "Node", {}, {"strength": 0}, {"strength": (1, 2)})
    assert [one.put(loaded, "m", s) for s in one.settings(True)] == ["m at 1", "m at 2"]
    assert one.switched_off(False) == {"strength": 0}


def test_contestants_ask_for_what_is_wanted(bench):
    known = bench("rivals.contestants")
    ours, *others = known.contestants(24, [7, 12])
    assert [s["compute_budget"] for s in ours.settings(True)] == [7 / 24, 12 / 24]
    names = [c.name for c in others]
    assert known.TAYLOR in names and len(set(names)) == len(names)
    for one in others:
        for image in (False, True):
            tried = list(one.settings(image))
            off = one.switched_off(image)
            assert tried and off not in tried and all(set(s) == set(off) for s in tried)


def test_text_models_are_measured_where_they_are(bench, tmp_path):
    clips = bench("rivals.clips")
    assert clips.models(tmp_path) == ["tracks", "confirmation", "demo"]
    (tmp_path / "text.safetensors").touch()
    assert clips.models(tmp_path) == ["tracks", "confirmation", "demo", "text"]


def test_a_clip_is_the_same_twice_and_has_the_steps_that_were_asked_for(bench):
    clips = bench("rivals.clips")
    one, two = (clips.clip("demo", 3, steps, 2) for steps in (6, 6))
    assert torch.equal(one.noise, two.noise) and len(one.sigmas) == 7 and one.from_image
    assert one.noise.shape[2] == 2 and one.first_frame().conditions.shape[2] == 1


def test_a_comfyui_is_asked_for(bench, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(SystemExit, match="COMFYUI_PATH is not set"):
        bench("rivals.host").RivalHost()


def test_the_committed_result_makes_tables(bench, root):
    file = root / "tests" / "bench" / "results" / "rivals.json"
    if not file.exists():
        pytest.skip("not measured yet")
    data = json.loads(file.read_text("utf-8"))
    known = bench("rivals.contestants").contestants(data["steps"], data["evaluations"])
    for model, found in data["models"].items():
        assert {known[0].name, "fewer steps, no cache"} <= set(found["contestants"])
        assert set(found["contestants"]) - {c.name for c in known} == {"fewer steps, no cache"}
        assert bench("rivals.table").closest(data, model)
    assert "mean of" in bench("rivals.table").page(data)
