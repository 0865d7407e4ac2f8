"""The example workflows are whole, fit the nodes and run; ComfyUI is not needed."""

import copy
import importlib
import json
import shutil
from pathlib import Path

import pytest
from motioncache_pack.motioncache_core.demo import checkpoint
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import check, run, signatures, small
from motioncache_pack.tests.workflows.examples import DEMOS, EXAMPLES, FOLDER, as_text, read
from PIL import Image

each = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(scope="module", autouse=True)
def comfy():
    undo = fake_comfy.install()
    before = fake_comfy.set_network_factory(DemoWan.from_state_dict)
    yield
    fake_comfy.set_network_factory(before)
    undo()


def test_every_workflow_has_its_files_and_an_id_of_its_own():
    # imports nodes, which want the stand-in
    thumbnails = importlib.import_module("motioncache_pack.tests.pictures.thumbnails")
    wanted = {f"{name}.{ending}" for name in EXAMPLES for ending in ("json", "jpg")}
    assert {file.name for file in FOLDER.iterdir()} == wanted
    assert set(thumbnails.NAMES) == set(small.REPORTS) == set(EXAMPLES)
    assert len({read(name)["id"] for name in EXAMPLES}) == len(EXAMPLES)


@each
def test_it_is_whole(name):
    assert check.complaints(read(name)) == []
    assert check.thumbnail(FOLDER / f"{name}.jpg") is None


@each
def test_it_runs_with_a_tiny_model(name):
    prompt = small.with_a_tiny_model(signatures.to_api(read(name)))
    reports = small.REPORTS[name]
    if name == "Wan 2.1 autoregressive, many steps":
        # three of its seven chunks: the motion map's cost grows with their square
        for node in prompt.values():
            node["inputs"] |= {"length": 33} if "length" in node["inputs"] else {}
        reports = [(3 * 50, 9)]
    small.check_reports(prompt, small.StandIn().run(prompt), reports)


def node(workflow, kind):
    return next(n for n in workflow["nodes"] if n["type"] == kind)


def values(workflow, kind, *changes):
    """Replace values of the first node of a kind, given in pairs of place and value."""
    for place, value in changes:
        node(workflow, kind)["widgets_values"][place] = value


def swap(workflow, kind, one, other):
    old = node(workflow, kind)["widgets_values"]
    values(workflow, kind, (one, old[other]), (other, old[one]))


def say(workflow, words):
    node(workflow, "MarkdownNote")["widgets_values"][0] += words


def unlink(workflow):
    """Take a node away, and leave the links to it."""
    workflow["nodes"].remove(node(workflow, "CLIPLoader"))


def cross(workflow):
    """Exchange the traces of the two experts' reports, on both sides."""
    one, other = (n for n in workflow["nodes"] if n["type"] == "MotionCacheReport")
    # else a link would lead to the left
    one["pos"][0] = other["pos"][0]
    a, b = (n["inputs"][1]["link"] for n in (one, other))
    one["inputs"][1]["link"], other["inputs"][1]["link"] = b, a
    for link in workflow["links"]:
        if link[0] in (a, b):
            link[3] = other["id"] if link[0] == a else one["id"]


def blind(workflow):
    """Take the reports away, and the links to them."""
    kind = "MotionCacheReport"
    gone = {s["link"] for n in workflow["nodes"] if n["type"] == kind for s in n["inputs"]}
    workflow["nodes"] = [n for n in workflow["nodes"] if n["type"] != kind]
    workflow["links"] = [link for link in workflow["links"] if link[0] not in gone]
    for slot in (s for n in workflow["nodes"] for s in n["outputs"]):
        slot["links"] = [number for number in slot["links"] or () if number not in gone]


def model(**facts):
    whole = {"name": "m", "url": "https://huggingface.co/m", "directory": "vae"} | facts
    return lambda w: node(w, "VAELoader")["properties"].update(models=[whole])


# what is done to a workflow of two experts in two groups, and a word of what is said of it
BROKEN = {
    "link type": (lambda w: w["links"][0].__setitem__(5, "VAE"), "is a VAE, from"),
    "missing node": (unlink, "has an end at no slot"),
    "dangling link": (lambda w: w["links"].pop(), "slots name the links"),
    "one end": (lambda w: node(w, "VAEDecode")["inputs"][0].update(link=1), "at its ends"),
    "slot": (lambda w: w["links"][0].__setitem__(4, 7), "has an end at no slot"),
    "slot name": (lambda w: node(w, "VAEDecode")["inputs"][0].update(name="latent"), "the inputs"),
    "output": (lambda w: node(w, "UNETLoader")["outputs"].pop(), "does not have the outputs"),
    "not connected": (lambda w: node(w, "VAEDecode")["inputs"][0].update(link=None), "connected"),
    "backwards": (lambda w: node(w, "SaveVideo").update(pos=[-900, 0]), "to the right nor down"),
    "link number": (lambda w: w.update(last_link_id=1), "above last_link_id"),
    "no report": (blind, "has one of"),
    "another trace": (cross, "shows another sampler"),
    "node type": (lambda w: node(w, "VAEDecode").update(type="VAEdecode"), "is neither ours nor"),
    "node id": (lambda w: node(w, "VAEDecode").update(id=1), "not unique"),
    "pack": (lambda w: node(w, "MotionCacheReport")["properties"].clear(), "cnr_id"),
    "choice": (lambda w: values(w, "MotionCachePatcher", (0, "best")), "preset is 'best'"),
    "range": (lambda w: values(w, "KSamplerAdvanced", (3, 0)), "steps is 0, outside of"),
    "step": (lambda w: values(w, "EmptyHunyuanLatentVideo", (2, 82)), "no step of 4 from 1"),
    "kind": (lambda w: values(w, "CreateVideo", (1, 8.5)), "which is no INT"),
    "truth": (lambda w: values(w, "KSamplerAdvanced", (3, True)), "which is no INT"),
    "file": (lambda w: values(w, "VAELoader", (0, "wan vae")), "which is no model or picture"),
    "swapped": (lambda w: swap(w, "KSamplerAdvanced", 3, 4), "which is no INT"),
    "too few": (lambda w: node(w, "UNETLoader")["widgets_values"].pop(), "needs a value for each"),
    "nodes overlap": (lambda w: node(w, "VAELoader").update(pos=[350, 320]), "overlap"),
    "note overlaps": (lambda w: node(w, "MarkdownNote").update(size=[440, 700]), "MarkdownNote 1"),
    "groups overlap": (lambda w: w["groups"][0]["bounding"].__setitem__(2, 700), "and group"),
    "half in a group": (lambda w: w["groups"][0]["bounding"].__setitem__(2, 400), "neither around"),
    "too wide": (lambda w: node(w, "SaveVideo").update(pos=[1990, 370]), "more than 2000 x"),
    "too high": (lambda w: node(w, "SaveVideo").update(pos=[1765, 1200]), "x 1130"),
    "setting": (lambda w: say(w, "**compute_share** 0.5"), "speaks of compute_share"),
    "setting's value": (lambda w: say(w, "**shift** 400"), "shift to 400"),
    "setting's choice": (lambda w: say(w, "**preset** *motions*"), "preset to motions"),
    "node of ours": (lambda w: say(w, "*MotionCache Heat Map*"), "MotionCache Heat Map"),
    "file in note": (lambda w: values(w, "VAELoader", (0, "a.safetensors")), "does not name a.s"),
    "long note": (lambda w: say(w, "word " * 400), "characters, more than"),
    "model": (model(name="wan_2.1_vae.safetensors"), "not well formed"),
    "model's folder": (model(directory=""), "not well formed"),
}  # fmt: skip


def test_what_is_broken_is_seen():
    whole = read("Wan 2.2 14B text to video")
    unseen = {}
    for what, (change, words) in BROKEN.items():
        workflow = copy.deepcopy(whole)
        change(workflow)
        found = "\n".join(check.complaints(workflow))
        if words not in found:
            unseen[what] = found
    assert unseen == {}
    address = "https://huggingface.co/a/wan_2.1_vae.safetensors"
    model(name="wan_2.1_vae.safetensors", url=address)(whole)
    assert check.complaints(whole) == []


def test_a_thumbnail_is_a_small_jpeg_of_one_size(tmp_path):
    file = tmp_path / "a.jpg"
    assert "is missing" in check.thumbnail(file)
    for size, kind, more in (
        ((640, 361), "JPEG", b""), ((640, 360), "PNG", b""), ((640, 360), "JPEG", b"0" * 80_000),
    ):  # fmt: skip
        Image.new("RGB", size).save(file, kind)
        file.write_bytes(file.read_bytes() + more)
        assert "is no JPEG" in check.thumbnail(file)


@pytest.fixture
def copied(tmp_path):
    """Files and record that may be changed, as `refresh_all` takes them."""
    shutil.copytree(FOLDER, tmp_path / "workflows")
    return tmp_path / "workflows", Path(shutil.copy(run.ORDERS, tmp_path))


def test_the_files_are_what_make_workflows_writes(copied):
    folder, record = copied
    assert not any(run.refresh_all(signatures.known(), *copied).values())
    for name in EXAMPLES:
        text = (folder / f"{name}.json").read_bytes()
        assert text == (FOLDER / f"{name}.json").read_bytes(), "run `make workflows` and commit"
    assert record.read_bytes() == run.ORDERS.read_bytes(), "run `make workflows` and commit"


def test_values_follow_their_widgets(copied):
    """One widget put in the middle, one taken out, one moved to the front; then back."""
    file = copied[0] / "Demo 2 motion map and report.json"
    before = node(json.loads(file.read_bytes()), "MotionCacheSettings")["widgets_values"]
    now = copy.deepcopy(signatures.known())
    inputs = now["MotionCacheSettings"]["inputs"]
    names = [item["name"] for item in inputs]
    inputs.insert(3, {"name": "new", "type": "COMBO", "options": ["a", "b"]})
    gone = inputs.pop(names.index("cfg_mask") + 1)
    moved = inputs.pop(names.index("reuse_threshold"))
    inputs.insert(0, moved)

    assert run.refresh_all(now, *copied)[file.stem]
    after = node(json.loads(file.read_bytes()), "MotionCacheSettings")["widgets_values"]
    assert (gone["name"], moved["name"]) == ("cfg_mask", "reuse_threshold")
    rest = [v for v, n in zip(before, names, strict=True) if n not in ("cfg_mask", moved["name"])]
    assert after == [0.1, *rest[:3], "a", *rest[3:]]
    assert not any(run.refresh_all(now, *copied).values())
    # what was taken out comes back with its default, which is the value that the file has
    assert run.refresh_all(signatures.known(), *copied)[file.stem]
    assert file.read_bytes() == (FOLDER / file.name).read_bytes()


def test_what_cannot_be_refreshed_is_left_alone(tmp_path):
    known = signatures.known()
    for change, words in (
        (lambda w: node(w, "MotionCacheSettings")["widgets_values"].pop(),
         "has 18 values; write one for each"),
        (lambda w: w["nodes"][1].update(type="Strange"), "neither ours nor recorded"),
    ):  # fmt: skip
        workflow = read("Demo 2 motion map and report")
        change(workflow)
        file = tmp_path / "a.json"
        file.write_text(as_text(workflow), "utf-8")
        with pytest.raises(ValueError, match=words):
            run.refresh_all(known, tmp_path)
        assert file.read_text("utf-8") == as_text(workflow)


def test_a_demo_needs_no_file_and_has_the_demo_settings():
    for name in DEMOS:
        nodes = signatures.to_api(read(name)).values()
        widgets = (w for n in nodes for w in signatures.known()[n["class_type"]]["inputs"])
        assert not any("files" in widget for widget in widgets)
        kinds = {n["class_type"] for n in nodes}
        assert ("MotionCacheDemoModel" in kinds) != ("MotionCacheMagiTiny" in kinds)
        if "MotionCacheMagiTiny" in kinds:
            assert "**the video is noise**" in node(read(name), "MarkdownNote")["widgets_values"][0]
        for item in nodes:
            if item["class_type"] == "MotionCacheSettings":
                given = item["inputs"]
                assert {name: getattr(checkpoint.SETTINGS, name) for name in given} == given
    for name in ("Demo 1 without and with MotionCache", "Demo 3 diffusion forcing"):
        assert checkpoint.LIMITS in node(read(name), "MarkdownNote")["widgets_values"][0]
