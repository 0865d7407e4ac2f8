"""The example workflows are whole and fit this pack's nodes; ComfyUI is not needed."""

import json
from itertools import combinations

import pytest
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import EXAMPLES
from motioncache_pack.tests.workflows.graph import TITLE
from PIL import Image

each = pytest.mark.parametrize("name", EXAMPLES)
CORE_LOADERS = {"UNETLoader", "CLIPLoader", "VAELoader"}
WATCHERS = ("MotionCacheReport", "MotionCacheMotionMap")


@pytest.fixture(scope="module", autouse=True)
def comfy():
    undo = fake_comfy.install()
    yield
    undo()


@pytest.fixture(scope="module")
def folder(root):
    return root / "workflows"


@pytest.fixture
def workflow(folder, name):
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def by_id(workflow):
    return {node["id"]: node for node in workflow["nodes"]}


def box(node):
    (x, y), (w, h) = node["pos"], node["size"]
    return x, y - TITLE, x + w, y + h


def test_every_example_has_its_files(folder):
    assert {f.name for f in folder.iterdir()} == {
        f"{name}.{ending}" for name in EXAMPLES for ending in ("json", "jpg")
    }


@each
def test_the_file_is_what_run_py_writes(folder, name):
    written = (folder / f"{name}.json").read_text("utf-8")
    assert written == EXAMPLES[name]().as_json(), "run `make workflows` and commit the result"


@each
def test_every_node_and_its_slots_are_known(workflow):
    known = signatures.known()
    for node in workflow["nodes"]:
        assert node["type"] in known, f"{node['type']} is neither ours nor in core_nodes.json"
        for side, wanted in (
            ("inputs", signatures.sockets(known[node["type"]])),
            ("outputs", known[node["type"]]["outputs"]),
        ):
            slots = [(slot["name"], slot["type"]) for slot in node[side]]
            assert slots == [(item["name"], item["type"]) for item in wanted], node["type"]


@each
def test_every_input_that_must_be_connected_is(workflow):
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            assert slot["link"] is not None or slot.get("shape") == 7, (node["type"], slot["name"])


@each
def test_links_agree_with_both_of_their_ends(workflow):
    nodes = by_id(workflow)
    assert len(nodes) == len(workflow["nodes"]) and max(nodes) == workflow["last_node_id"]
    numbers = [link[0] for link in workflow["links"]]
    assert len(set(numbers)) == len(numbers) and max(numbers) == workflow["last_link_id"]
    for number, source, out, target, into, kind in workflow["links"]:
        output, entry = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and entry["link"] == number
        assert output["type"] == kind and entry["type"] in (kind, "*")
    ends = [slot["link"] for node in workflow["nodes"] for slot in node["inputs"] if slot["link"]]
    starts = [
        number
        for node in workflow["nodes"]
        for slot in node["outputs"]
        for number in slot["links"] or ()
    ]
    assert sorted(ends) == sorted(starts) == sorted(numbers)


@each
def test_every_widget_takes_its_value(workflow):
    known = signatures.known()
    for node in workflow["nodes"]:
        widgets = signatures.widgets(known[node["type"]])
        for value, widget in zip(node["widgets_values"], widgets, strict=True):
            assert signatures.complaint(value, widget) is None, node["type"]


@each
def test_nodes_do_not_overlap(workflow):
    for a, b in combinations(workflow["nodes"], 2):
        (al, at, ar, ab), (bl, bt, br, bb) = box(a), box(b)
        apart = ar <= bl or br <= al or ab <= bt or bb <= at
        assert apart, f"{a['type']} {a['id']} and {b['type']} {b['id']}"


@each
def test_links_lead_to_the_right_or_down(workflow):
    nodes = by_id(workflow)
    for _, source, _, target, _, _ in workflow["links"]:
        (ax, ay), (bx, by) = nodes[source]["pos"], nodes[target]["pos"]
        assert bx > ax or (bx == ax and by > ay), (nodes[source]["type"], nodes[target]["type"])


@each
def test_a_trace_is_read_behind_the_sampler_that_fills_it(workflow):
    api = signatures.to_api(workflow)
    watchers = [node for node in api.values() if node["class_type"] in WATCHERS]
    assert {node["class_type"] for node in watchers} == set(WATCHERS)
    for node in watchers:
        patcher, sampler = node["inputs"]["trace"][0], node["inputs"]["samples"][0]
        assert api[patcher]["class_type"] == "MotionCachePatcher"
        assert api[sampler]["inputs"]["model"] == [patcher, 0]


@each
def test_the_note_names_every_model_file(workflow):
    (note,) = (n["widgets_values"][0] for n in workflow["nodes"] if n["type"] == "MarkdownNote")
    for node in workflow["nodes"]:
        if node["type"] in CORE_LOADERS:
            assert node["widgets_values"][0] in note


def test_the_demo_needs_no_file(folder):
    demo = json.loads((folder / "motioncache_demo.json").read_text("utf-8"))
    assert not CORE_LOADERS & {node["type"] for node in demo["nodes"]}


@each
def test_the_thumbnail_is_small(folder, name):
    file = folder / f"{name}.jpg"
    assert file.stat().st_size < 80_000
    with Image.open(file) as picture:
        assert picture.format == "JPEG" and picture.size == (640, 360)


@pytest.mark.parametrize(
    ("value", "widget"),
    [
        (0, {"type": "INT", "min": 1, "max": 9}),
        (True, {"type": "INT"}),
        ("1", {"type": "FLOAT"}),
        (1.5, {"type": "INT"}),
        ("euler", {"type": "COMBO", "options": ["heun"]}),
        ("model", {"type": "COMBO", "options": [], "files": True}),
    ],
)
def test_a_wrong_value_is_seen(value, widget):
    assert signatures.complaint(value, {"name": "x", **widget})
