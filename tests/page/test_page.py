"""The demo workflow in a browser, on the ComfyUI that COMFYUI_PATH names.

Needs Chromium, Node.js, and playwright-core where NODE_PATH points to.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from motioncache_pack.tests.workflows.test_workflows_live import schemas, server  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
NODE = shutil.which("node")
FOLDERS = [Path(p) for p in os.environ.get("NODE_PATH", "").split(os.pathsep) if p]
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
    script, workflow = root / "tests/page/drive.cjs", root / "workflows/motioncache_demo.json"
    folder = tmp_path_factory.mktemp(request.param)
    command = [NODE, script, server.url, workflow, folder, request.param, CHROMIUM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert (folder / f"{request.param}.png").stat().st_size > 50_000
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
    assert shown.startswith("MotionCache: 24 evaluations (")
    assert "all branches: D" in shown


def test_the_text_is_neither_saved_nor_sent(seen):
    (sent,) = (n for n in seen["prompt"].values() if n["class_type"] == "MotionCacheReport")
    assert set(sent["inputs"]) == {"trace", "samples"}
    (saved,) = (n for n in seen["saved"]["nodes"] if n["type"] == "MotionCacheReport")
    assert not any(value for value in saved.get("widgets_values") or ())


def test_the_pictures_are_on_their_nodes(seen):
    assert nodes(seen)["MotionCacheReport"]["images"][0][0] == 880
    (sheet,) = nodes(seen)["MotionCacheMotionMap"]["images"]
    assert sheet[0] == 640


def test_the_node_told_how_the_run_went(seen):
    told = [t["text"] for t in seen["told"]]
    assert "reused so far" in told[0]
    assert told[-1].startswith("24 evaluations, ") and " reused" in told[-1]
    assert nodes(seen)["MotionCachePatcher"]["widgets"]["$$node-text-preview"] == told[-1]
