"""The example workflows are whole and fit this pack's nodes; ComfyUI is not needed."""

import json
from itertools import combinations

import pytest
from motioncache_pack.motioncache_core import ForcingOptions, forcing_schedule
from motioncache_pack.motioncache_core.demo import checkpoint
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import DEMOS, EXAMPLES
from motioncache_pack.tests.workflows.examples_forcing import FORCING_EXAMPLES
from motioncache_pack.tests.workflows.graph import TITLE
from PIL import Image

each = pytest.mark.parametrize("name", EXAMPLES)
LOADERS = {
    "UNETLoader", "CLIPLoader", "CLIPVisionLoader", "VAELoader", "LoadImage",
    "MotionCacheLoadSkyReels",
}  # fmt: skip
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
        if node["type"] in LOADERS:
            assert node["widgets_values"][0] in note


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_needs_no_file_and_has_the_demo_settings(workflow):
    nodes = signatures.to_api(workflow).values()
    assert not LOADERS & {node["class_type"] for node in nodes}
    (given,) = (n["inputs"] for n in nodes if n["class_type"] == "MotionCacheSettings")
    assert {name: getattr(checkpoint.SETTINGS, name) for name in given} == given


def runs_of(workflow):
    """Latent frames, given frames, steps and options of every diffusion-forcing run."""
    api = signatures.to_api(workflow)

    def frames(number):
        kind, inputs = api[number]["class_type"], api[number]["inputs"]
        if kind == "EmptyHunyuanLatentVideo":
            assert inputs["length"] % 4 == 1
            return (inputs["length"] - 1) // 4 + 1, 0
        if kind == "MotionCacheDemoModel":
            return inputs["frames"], 0
        if kind == "MotionCacheExtendVideo":
            known = sum(frames(inputs["samples"][0]))
            return inputs["frames"], known
        return frames(inputs["latent_image"][0])

    for node in api.values():
        if node["class_type"] != "SamplerCustom":
            continue
        inputs = node["inputs"]
        new, given = frames(inputs["latent_image"][0])
        options = ForcingOptions(**api[inputs["sampler"][0]]["inputs"])
        yield new + given, given, api[inputs["sigmas"][0]]["inputs"]["steps"], options


@pytest.mark.parametrize(
    ("name", "clips"),
    [
        ("motioncache_demo_df", [(12, 0, 1), (12, 0, 1)]),
        ("skyreels_v2_df_motioncache", [(25, 0, 1)]),
        ("skyreels_v2_df_long", [(45, 0, 2), (65, 45, 1)]),
        ("causal_forcing_ar_motioncache", [(21, 0, 1)]),
    ],
)
def test_chunks_and_windows_fit_the_clip(workflow, clips):
    """`clips`: latent frames, given frames, windows that are sampled."""
    found = []
    for frames, given, steps, options in runs_of(workflow):
        schedule = forcing_schedule(frames, steps, options, given)
        assert frames % options.chunk_frames == 0
        found.append((frames, given, len({it.window for it in schedule})))
    assert found == clips


def test_every_forcing_example_is_checked_for_its_clip(folder):
    for name in EXAMPLES:
        workflow = json.loads((folder / f"{name}.json").read_text("utf-8"))
        kinds = {node["type"] for node in workflow["nodes"]}
        assert ("MotionCacheDiffusionForcing" in kinds) == (name in FORCING_EXAMPLES)


def test_the_autoregressive_example_samples_one_chunk_after_the_other(folder):
    file = folder / "causal_forcing_ar_motioncache.json"
    ((frames, given, steps, options),) = runs_of(json.loads(file.read_text("utf-8")))
    for it in forcing_schedule(frames, steps, options, given):
        assert sum(step.role == "active" for step in it.steps) == 1


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
