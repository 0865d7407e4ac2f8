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
import torch
from motioncache_pack.motioncache_core.demo import scenes
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import DEMOS, EXAMPLES
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(
        not os.environ.get("COMFYUI_PATH"),
        reason="COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout",
    ),
]
each = pytest.mark.parametrize("name", EXAMPLES)
# diffusion forcing adds the delay of every chunk but the first
EVALUATIONS = {
    "motioncache_demo": 24,
    "motioncache_compare": 24,
    "motioncache_demo_df": 24 + 3 * 6,
}
STARTUP, SAMPLING = 180, 300
TINY = "tiny_wan.safetensors"


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
    torch.manual_seed(0)
    tiny = DemoWan(dim=128, ffn_dim=128, num_layers=2, text_dim=scenes.TEXT_DIM)
    save_file(tiny.state_dict(), models / TINY)
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


@pytest.fixture
def workflow(root, name):
    return json.loads((root / "workflows" / f"{name}.json").read_text("utf-8"))


@each
def test_the_server_knows_every_node_and_its_slots(server, workflow):
    for node in workflow["nodes"]:
        if node["type"] in signatures.NOTES:
            continue
        live = signatures.from_info(server.infos[node["type"]])
        widgets = signatures.widgets(live)
        # the page goes by position; values of widgets that this version lacks come last
        needed = sum(not widget.get("optional") for widget in widgets)
        assert len(node["widgets_values"]) >= needed, node["type"]
        for value, widget in zip(node["widgets_values"], widgets, strict=False):
            assert signatures.complaint(value, widget) is None, node["type"]
        sockets = {
            (s["name"], s["type"], s.get("optional", False)) for s in signatures.sockets(live)
        }
        ours = {(s["name"], s["type"], s.get("shape") == 7) for s in node["inputs"]}
        assert {s for s in sockets if not s[2]} <= ours <= sockets, node["type"]
        outputs = [(o["name"], o["type"]) for o in node["outputs"]]
        assert outputs == [(o["name"], o["type"]) for o in live["outputs"]], node["type"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in DEMOS])
def test_the_server_accepts_all_but_missing_files(server, workflow):
    status, answer = server.ask("/prompt", {"prompt": signatures.to_api(workflow)})
    assert status == 400
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert errors
    for error in errors:
        assert error["type"] == "value_not_in_list", error
        assert error["extra_info"]["input_name"] in signatures.FILES, error


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_runs(server, workflow, name):
    outputs = server.run(signatures.to_api(workflow))
    types = {str(node["id"]): node["type"] for node in workflow["nodes"]}
    shown = {types[number]: output for number, output in outputs.items()}
    # one sheet each
    assert len(shown["MotionCacheMotionMap"]["images"]) == 1
    assert len(shown["MotionCacheReport"]["images"]) == 1
    assert len(shown["SaveAnimatedWEBP"]["images"]) == 1
    (words,) = shown["MotionCacheReport"]["text"]
    assert f"{EVALUATIONS[name]} evaluations" in words and "nothing was reused" not in words


def with_a_small_model(prompt):
    """The prompt with a tiny Wan for its files, on a small picture."""
    kinds = {number: node["class_type"] for number, node in prompt.items()}
    loaded = {"unet_name": TINY, "weight_dtype": "default"}
    # prompts are the demo model's, as there is no text encoder; a text-to-video model does not look
    # at what they say of a first frame
    taken = {
        "MotionCacheLoadSkyReels": ["tiny", 0], "UNETLoader": ["tiny", 0],
        "VAELoader": None, "CLIPLoader": None,
    }  # fmt: skip
    demo = {"scene": "disc to the right", "frames": 3, "batch_size": 1}
    out = {
        "demo": {"class_type": "MotionCacheDemoModel", "inputs": demo},
        "tiny": {"class_type": "UNETLoader", "inputs": loaded},
    }
    for number, node in prompt.items():
        kind, inputs = node["class_type"], dict(node["inputs"])
        if kind in (*taken, "CLIPTextEncode", "CreateVideo", "SaveVideo", "PreviewAny"):
            continue
        for name, value in inputs.items():
            if isinstance(value, list) and taken.get(kinds[value[0]]):
                inputs[name] = taken[kinds[value[0]]]
        if kind == "SamplerCustom":
            inputs |= {"positive": ["demo", 1], "negative": ["demo", 2]}
        elif kind == "EmptyHunyuanLatentVideo":
            inputs |= {"width": 64, "height": 64}
        elif kind == "VAEDecode":
            kind, inputs = "MotionCacheDemoDecode", {"samples": inputs["samples"], "scale": 1}
        out[number] = {"class_type": kind, "inputs": inputs}
    return out


# 50 steps and the delay of every chunk but the first: 5 in the first window, then 4 new ones;
# preset paper decides for either branch
@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("skyreels_v2_df_motioncache", [2 * 70]),
        ("skyreels_v2_df_long", [2 * (70 + 65), 2 * 65]),
        ("causal_forcing_ar_motioncache", [7 * 50]),
    ],
)
def test_the_rest_runs_with_a_small_model_in_its_place(server, workflow, evaluations):
    prompt = with_a_small_model(signatures.to_api(workflow))
    outputs = server.run(prompt)
    words = {
        number: output["text"][0]
        for number, output in outputs.items()
        if prompt[number]["class_type"] == "MotionCacheReport"
    }
    told = [words[number] for number in sorted(words, key=int)]
    assert len(told) == len(evaluations)
    for count, text in zip(evaluations, told, strict=True):
        assert f"{count} evaluations" in text and "nothing was reused" not in text
