"""A newcomer's first minutes in the page, on the ComfyUI that COMFYUI_PATH names.

Needs what `test_page.py` needs. Screenshots of every workflow as it opens are left in pytest's
folder.
"""

import json
import re
import subprocess
from itertools import combinations

import pytest
from motioncache_pack.tests.page.test_page import CHROMIUM, NODE, pytestmark  # noqa: F401
from motioncache_pack.tests.workflows.examples import DEMOS, EXAMPLES, read
from motioncache_pack.tests.workflows.test_workflows_live import (  # noqa: F401
    command,
    plain_command,
    server,
    supported,
)

# the page draws the title above a node's position
TITLE = 30
MEASURED = re.compile(r"(\d+)\u00a0% reused · (\d+\.\d)x faster\n\(measured, not estimated\)")
MODES = [f"{mode} {size}" for mode in ("classic", "vue") for size in ("1600x950", "1920x1080")]


@pytest.fixture(scope="module", params=MODES)
def seen(request, root, server, tmp_path_factory):  # noqa: F811
    """What `tour.cjs` saw, in one of the two ways to draw nodes."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    line = [
        NODE,
        root / "tests/page/tour.cjs",
        server.base,
        folder,
        *request.param.split(),
        CHROMIUM,
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    for name in ("run", "bypassed", "cancelled", "another_workflow"):
        picture = folder / f"{request.param.replace(' ', '_')}_{name}.png"
        assert picture.stat().st_size > 50_000
    found = json.loads(done.stdout)
    (folder / "seconds.json").write_text(json.dumps(found["seconds"]))
    return found


def test_templates_lists_them_all_with_the_demos_first(seen):
    assert seen["names"] == list(EXAMPLES)
    assert seen["names"][: len(DEMOS)] == list(DEMOS)


def test_every_workflow_opens_so_that_its_words_are_drawn(seen):
    assert set(seen["opened"]) == set(EXAMPLES)
    for name, graph in seen["opened"].items():
        assert not graph["blurred"] and graph["scale"] > 0.575, name
        titles = {n.get("title") for n in read(name)["nodes"]} - {None, ""}
        assert titles <= {n["title"] for n in graph["nodes"]}, name


def overlap(a, b):
    return not (
        a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
    )


def test_nothing_overlaps_before_and_after_a_run(seen):
    for graph in (*seen["opened"].values(), seen["after"]):
        boxes = [(x, y - TITLE, w, h + TITLE) for x, y, w, h in (n["box"] for n in graph["nodes"])]
        for boxes_of in (boxes, graph["drawn"]):
            assert [pair for pair in combinations(boxes_of, 2) if overlap(*pair)] == []


def test_what_needs_no_download_has_no_red_node(seen):
    for name in DEMOS:
        assert [n["title"] for n in seen["opened"][name]["nodes"] if n["red"]] == []


def test_the_node_says_what_to_expect_before_the_run(seen):
    assert seen["before"] == "computes 40\u00a0% of the steps\nup to 2.5x faster in the sampler"
    assert seen["changed"] == "computes 30\u00a0% of the steps\nup to 3.3x faster in the sampler"


def test_it_runs_bypassed_too(seen):
    assert seen["failed"] == ["", "", ""]
    assert seen["muted"] == seen["bypassed"]["live"] == "bypassed: the model is left as it is"
    assert re.fullmatch(r"\d+\.\d s without MotionCache, identical", seen["bypassed"]["said"])
    assert seen["first"]["map"] and not seen["bypassed"]["map"]


def test_another_preset_is_another_share_and_another_picture(seen):
    first, fast = seen["first"], seen["fast"]
    assert first["picture"] != fast["picture"]
    for run, share in ((first, "58"), (fast, "71")):
        # one number, the measured one, on both nodes
        reused, faster = MEASURED.fullmatch(run["live"]).groups()
        assert reused == share and f"with it: {faster}x faster, " in run["said"]
        assert re.match(r"\d+\.\d s without MotionCache, \d+\.\d s with it: ", run["said"])


def test_a_run_that_is_ended_leaves_no_number(seen):
    assert " of 24 · " in seen["started"]
    assert seen["cancelled"] == seen["changed"]


def test_a_workflow_that_is_opened_meanwhile_is_told_nothing(seen):
    """Its node of the same id is a prompt; its own MotionCache says what to expect."""
    told = {n["type"]: n["live"] for n in seen["elsewhere"] if n["live"]}
    assert told == {"MotionCachePatcher": seen["before"]}


def test_pictures_are_shown_in_the_workflow_that_made_them(seen):
    assert seen["landed"] == []
    assert " s with it: " in seen["back"]["said"] and seen["back"]["map"]


def test_the_console_is_clean(seen):
    assert seen["errors"] == []
