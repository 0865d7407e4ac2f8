"""The workflow with all pictures of the pack in a browser, on the ComfyUI of COMFYUI_PATH.

Needs Chromium, Node.js, and playwright-core where NODE_PATH points to.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from motioncache_pack.tests.workflows.test_workflows_live import (  # noqa: F401
    command,
    plain_command,
    server,
    supported,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
NODE = shutil.which("node")
FOLDERS = [Path(p) for p in os.environ.get("NODE_PATH", "").split(os.pathsep) if p]
# what people look for who want this and do not know its name
FASTER = (
    "teacache", "faster", "accelerate", "optimize", "skip steps", "wan speed", "first block cache",
    "video cache", "magi", "skyreels", "hunyuan", "ltx",
)  # fmt: skip
MISSING = [
    what
    for what, there in {
        "COMFYUI_PATH": os.environ.get("COMFYUI_PATH"),
        "Chromium": CHROMIUM,
        "Node.js": NODE,
        "playwright-core in NODE_PATH": any((p / "playwright-core").is_dir() for p in FOLDERS),
    }.items()
    if not there
]
pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request, root, server, tmp_path_factory):  # noqa: F811
    """What `drive.cjs` saw of a run; its screenshots are kept in pytest's folder."""
    script = root / "tests/page/drive.cjs"
    workflow = root / "workflows/Demo 2 motion map and report.json"
    folder = tmp_path_factory.mktemp(request.param)
    line = [NODE, script, server.base, workflow, folder, request.param, CHROMIUM]
    done = subprocess.run(line, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    for shot in ("running", "after", "scrubbed", "again", "reloaded", "help", "chinese"):
        assert (folder / f"{request.param}_{shot}.png").stat().st_size > 50_000
    return json.loads(done.stdout)


def nodes(seen, when="after"):
    return {node["type"]: node for node in seen[when]}


def test_the_page_runs_it_without_an_error_of_ours(seen):
    assert seen["failed"] == ""
    assert seen["errors"] == []


def test_the_reports_text_is_on_its_node(seen):
    before = nodes(seen, "before")["MotionCacheReport"]["widgets"]
    assert before["report"] == ""
    shown = nodes(seen)["MotionCacheReport"]["widgets"]["report"]
    assert shown.startswith("MotionCache: 24 steps (")
    assert "all passes: D" in shown


def test_the_text_is_neither_saved_nor_sent(seen):
    (sent,) = (n for n in seen["prompt"].values() if n["class_type"] == "MotionCacheReport")
    assert set(sent["inputs"]) == {"trace", "samples"}
    (saved,) = (n for n in seen["saved"]["nodes"] if n["type"] == "MotionCacheReport")
    assert not any(value for value in saved.get("widgets_values") or ())


def test_the_pictures_are_on_their_nodes(seen):
    assert nodes(seen)["MotionCacheReport"]["images"][0][0] == 880
    shown = seen["scrubbed"]["sheet"]["words"]
    assert re.search(r"\d+ × \d+", shown) and "noise" not in shown
    start = seen["scrubbed"]["start"]
    # frames of 256 x 256 below 8 x 8 tokens, and as large on the screen as a person wants it
    assert start["visible"] and start["pixels"] == [512, 512]
    assert min(start["box"]) > 250


def test_before_a_run_there_is_nothing_to_scrub(seen):
    assert seen["empty"]["count"] == 1 and not seen["empty"]["visible"]


def test_scrubbing_changes_the_picture_without_a_new_prompt(seen):
    found = seen["scrubbed"]
    assert seen["prompts"][0] == seen["prompts"][1] == 1
    assert found["start"]["views"] == ["motion", "updates", "staleness", "active", "sheet"]
    first, last = found["firstStep"], found["lastStep"]
    # those of 24 steps that are computed and have one before them
    assert first["shows"].split()[0] == last["shows"].split()[0] == "motion"
    assert int(first["shows"].split()[1]) < int(last["shows"].split()[1]) <= 23
    assert first["words"] != last["words"] and first["picture"] != last["picture"]
    # it opens in the middle of the clip
    assert found["start"]["shows"].split()[2] == "4"
    assert found["lastFrame"]["shows"].split()[2] == "8"
    shown = [found[view]["picture"] for view in ("motion", "updates", "staleness", "active")]
    assert found["lastFrame"]["picture"] == shown[0] and len(set(shown)) == 4


def test_another_budget_is_another_map(seen):
    again, before = seen["again"], seen["scrubbed"]["motion"]
    # the evaluation and the frame stay where they were
    assert again["shows"].split()[0::2] == before["shows"].split()[0::2] == ["motion", "8"]
    assert again["picture"] != before["picture"]
    assert "0.00\n1.00\nchange of the model's answer" in again["words"]


def test_the_map_outlives_a_reload_but_not_its_node(seen):
    assert seen["reloaded"]["visible"]
    assert "0.00\n1.00\nchange of the model's answer" in seen["reloaded"]["words"]
    # that of the second run
    again, kept = seen["again"], seen["kept"]
    assert (kept["shows"], kept["picture"]) == (again["shows"], again["picture"])
    assert seen["left"] == 0


def test_the_scrubber_is_neither_saved_nor_sent(seen):
    (sent,) = (n for n in seen["prompt"].values() if n["class_type"] == "MotionCacheMotionMap")
    assert "scrub" not in sent["inputs"] and sent["inputs"]["upscale"] == "nearest"
    (saved,) = (n for n in seen["saved"]["nodes"] if n["type"] == "MotionCacheMotionMap")
    assert len([v for v in saved["widgets_values"] if v not in (None, "")]) == 7


@pytest.mark.parametrize(
    ("words", "node"),
    [
        ("motion cache", "Makes sampling faster"),
        *((words, "Makes sampling faster") for words in FASTER),
        ("heatmap", "MotionCache Motion Map"),
        ("what was reused", "MotionCache Motion Map"),
    ],
)
def test_the_search_finds_the_nodes_by_their_aliases(seen, words, node):
    assert node in seen["found"][words]


def test_help_opens(seen):
    assert "What happened in a run, one picture per latent frame." in seen["help"]


def test_a_chinese_page_says_it_in_chinese(seen):
    shown = {node["type"]: node["widgets"] for node in seen["chinese"]}
    report = shown["MotionCacheReport"]["report"]
    assert report.startswith("MotionCache：10 步（完整 ") and "\n注意：采样 10 步：" in report
    assert re.findall(r"[a-z]+ [a-z]+ [a-z]+", report) == []
    assert re.match(
        r"复用 \d+\u00a0% · 快 \d\.\d 倍\n（实测",
        shown["MotionCachePatcher"]["$$node-text-preview"],
    )


def test_the_hosts_preview_goes_on(seen):
    """One for every step of the two samplers, but for those that the host skips."""
    assert seen["previews"] > 24


def test_the_node_told_how_the_run_went(seen):
    told = [t["text"] for t in seen["told"]]
    assert told[0].startswith("settings are connected,\npreset is not used\ncomputes 40")
    assert told[1].startswith("step 1 of 24 · ")
    # the workflow samples without it too
    assert re.fullmatch(r"58\u00a0% reused · \d\.\dx faster\n\(measured, not estimated\)", told[-1])
    assert nodes(seen)["MotionCachePatcher"]["widgets"]["$$node-text-preview"] == told[-1]
