"""The example workflows on the ComfyUI that COMFYUI_PATH names, through its server."""

import json
import os
import shutil
from pathlib import Path

import pytest
from motioncache_pack.tests.comfyui.test_server import command as plain_command  # noqa: F401
from motioncache_pack.tests.comfyui.test_server import server  # noqa: F401
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import signatures, small
from motioncache_pack.tests.workflows.examples import DEMOS, EXAMPLES, read
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(
        not os.environ.get("COMFYUI_PATH"),
        reason="COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout",
    ),
]


@pytest.fixture(scope="module")
def supported():
    """The host in this process, to read our schemas; a version that lacks a node fails the test."""
    undo = fake_comfy.install()
    yield
    undo()


@pytest.fixture(scope="module")
def command(plain_command, tmp_path_factory):  # noqa: F811
    """How to start ComfyUI with a tiny model and the picture that every ComfyUI brings."""
    folder = tmp_path_factory.mktemp("models")
    save_file(small.tiny_wan(), folder / small.TINY)
    paths = folder / "paths.yaml"
    paths.write_text(f"tiny:\n  diffusion_models: {json.dumps(str(folder))}\n", "utf-8")
    picture = Path(os.environ["COMFYUI_PATH"]) / "input" / "example.png"
    shutil.copy(picture, plain_command[plain_command.index("--input-directory") + 1])
    return [*plain_command, "--extra-model-paths-config", str(paths)]


@pytest.fixture(scope="module")
def infos(server):  # noqa: F811
    return server.get("/object_info")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_server_knows_its_nodes_and_runs_it(server, infos, name):  # noqa: F811
    workflow = read(name)
    for node in workflow["nodes"]:
        if node["type"] not in signatures.NOTES:
            check_node(node, signatures.from_info(infos[node["type"]]))
    prompt = signatures.to_api(workflow)
    if name not in DEMOS:
        check_only_files_are_missing(server, prompt)
        prompt = small.with_a_tiny_model(prompt)
    small.check_reports(prompt, server.run(prompt), small.REPORTS[name])


def check_node(node, live):
    widgets = signatures.widgets(live)
    # the page goes by position; values of widgets that this version lacks come last
    assert len(node["widgets_values"]) >= sum(not w.get("optional") for w in widgets), node["type"]
    for value, widget in zip(node["widgets_values"], widgets, strict=False):
        assert signatures.complaint(value, widget) is None, node["type"]
    sockets = {(s["name"], s["type"], s.get("optional", False)) for s in signatures.sockets(live)}
    ours = {(s["name"], s["type"], s.get("shape") == 7) for s in node["inputs"]}
    assert {s for s in sockets if not s[2]} <= ours <= sockets, node["type"]
    outputs = [(o["name"], o["type"]) for o in node["outputs"]]
    assert outputs == [(o["name"], o["type"]) for o in live["outputs"]], node["type"]


def check_only_files_are_missing(server, prompt):  # noqa: F811
    with pytest.raises(AssertionError) as refused:
        server.post("/prompt", {"prompt": prompt})
    nodes = json.loads(str(refused.value))["node_errors"].values()
    for error in (error for node in nodes for error in node["errors"]):
        # Load Video looks for its file itself
        assert error["type"] in ("value_not_in_list", "custom_validation_failed"), error
        assert error["extra_info"]["input_name"] in signatures.FILES, error
