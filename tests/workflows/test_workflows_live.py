"""The example workflows on the ComfyUI that COMFYUI_PATH names, through its server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
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
STARTUP, SAMPLING = 180, 300


class Server:
    """A ComfyUI whose custom nodes, models and results are in a folder of the test."""

    def __init__(self, url, process, log):
        self.url, self.process, self.log = url, process, log
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path, data=None):
        """The answer and its status."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body)
        try:
            with self._open(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def run(self, prompt):
        """What the nodes of a prompt show, once it has run."""
        status, answer = self.ask("/prompt", {"prompt": prompt})
        assert status == 200, answer
        key = answer["prompt_id"]
        entry = self.wait(SAMPLING, lambda: self.ask(f"/history/{key}")[1].get(key))
        told = entry["status"]
        assert told["status_str"] == "success", told["messages"][-1][1].get("exception_message")
        return entry["outputs"]

    def wait(self, seconds, check):
        """What `check` returns as soon as that is not None."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                found = check()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                found = None
            if found is not None:
                return found
            time.sleep(0.5)
        pytest.fail("the server ended or took too long:\n" + self.log.read_text("utf-8")[-4000:])


@pytest.fixture(scope="module")
def server(root, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfy")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "ComfyUI-MotionCache").symlink_to(root, target_is_directory=True)
    # the picture that every ComfyUI brings
    (base / "input").mkdir()
    picture = Path(os.environ["COMFYUI_PATH"]) / "input" / "example.png"
    shutil.copy(picture, base / "input")
    models = base / "models" / "diffusion_models"
    models.mkdir(parents=True)
    save_file(small.tiny_wan(), models / small.TINY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
               "--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes",
               "--database-url", "sqlite:///:memory:"]  # fmt: skip
    shims = root / "tests" / "support" / "torch_shims"
    paths = [str(shims), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    log = base / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=os.environ["COMFYUI_PATH"], env=env, stdout=out, stderr=out
        )
    try:
        found = Server(f"http://127.0.0.1:{port}", process, log)
        found.infos = found.wait(STARTUP, lambda: found.ask("/object_info")[1])
        yield found
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", autouse=True)
def schemas():
    undo = fake_comfy.install()
    yield
    undo()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_server_knows_its_nodes_and_runs_it(server, name):
    workflow = read(name)
    for node in workflow["nodes"]:
        if node["type"] not in signatures.NOTES:
            check_node(node, signatures.from_info(server.infos[node["type"]]))
    prompt = signatures.to_api(workflow)
    if name not in DEMOS:
        check_only_files_are_missing(server, prompt)
        prompt = small.with_a_tiny_model(prompt)
    small.check_reports(prompt, server.run(prompt), small.EVALUATIONS[name])


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


def check_only_files_are_missing(server, prompt):
    status, answer = server.ask("/prompt", {"prompt": prompt})
    assert status == 400
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert errors
    for error in errors:
        assert error["type"] == "value_not_in_list", error
        assert error["extra_info"]["input_name"] in signatures.FILES, error
