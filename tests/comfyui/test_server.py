"""The pack in a real ComfyUI server: it loads without a complaint and runs a whole graph."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from motioncache_pack.tests.nodes.contract import CONTRACT
from motioncache_pack.tests.nodes.test_schema import contract_inputs

pytestmark = pytest.mark.comfy

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "ComfyUI-MotionCache"
FRAMES = 4
START_SECONDS, RUN_SECONDS = 240, 120
COMPLAINT = re.compile(r"warn|error|fail|traceback|cannot|deprecat|skip", re.IGNORECASE)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def command(supported, tmp_path_factory):
    """How to start ComfyUI with this checkout as its one custom node."""
    folder = tmp_path_factory.mktemp("comfyui")
    packs = folder / "custom_nodes"
    packs.mkdir()
    (packs / NAME).symlink_to(ROOT, target_is_directory=True)
    paths = folder / "extra_model_paths.yaml"
    paths.write_text(f"tests:\n  custom_nodes: {json.dumps(str(packs))}\n", encoding="utf-8")
    line = [sys.executable, "main.py", "--cpu", "--disable-api-nodes"]
    line += ["--database-url", "sqlite:///:memory:", "--extra-model-paths-config", str(paths)]
    line += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", NAME]
    for kind in ("output", "temp", "user", "input"):
        (folder / kind).mkdir()
        line += [f"--{kind}-directory", str(folder / kind)]
    return line


def start(command, log, *more):
    shim = ROOT / "tests" / "support" / "torch_shims"
    environment = {**os.environ, "PYTHONPATH": str(shim), "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return subprocess.Popen(
        [*command, *more],
        cwd=os.environ["COMFYUI_PATH"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)


def complaints(text):
    """Lines that are about the pack and are no good news."""
    lines = [line for line in text.splitlines() if "motioncache" in line.lower()]
    return [line for line in lines if COMPLAINT.search(line.replace(str(ROOT), ""))]


class Server:
    def __init__(self, port, log_path, process):
        self.base, self.log_path, self.process = f"http://127.0.0.1:{port}", log_path, process
        # a proxy of the environment must not be asked for this machine
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def read(self, path):
        with self.opener.open(self.base + path, timeout=60) as answer:
            return answer.read()

    def get(self, path):
        return json.loads(self.read(path))

    def post(self, path, data):
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            self.base + path, body, {"Content-Type": "application/json"}
        )
        try:
            with self.opener.open(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def wait_until(self, found, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log[-4000:]}"
            try:
                if result := found():
                    return result
            except urllib.error.URLError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"nothing after {seconds} s:\n{self.log[-4000:]}")

    def run(self, graph):
        """The outputs of a prompt by node."""
        prompt = self.post("/prompt", {"prompt": graph})["prompt_id"]
        done = self.wait_until(lambda: self.get(f"/history/{prompt}").get(prompt), RUN_SECONDS)
        assert done["status"]["status_str"] == "success", done["status"]
        return done["outputs"]


@pytest.fixture(scope="module")
def server(command, tmp_path_factory):
    port = free_port()
    log_path = tmp_path_factory.mktemp("server") / "log.txt"
    with log_path.open("wb") as log:
        process = start(
            command, log, "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"
        )
        found = Server(port, log_path, process)
        try:
            found.wait_until(lambda: found.get("/system_stats"), START_SECONDS)
            yield found
        finally:
            stop(process)


def graph(seed=1, steps=24, **settings):
    """The demo model through every node of the pack, in the API format."""
    widgets = CONTRACT["MotionCacheSettings"][1]
    values = {name: said["default"] for name, (_, said) in widgets.items()} | settings
    sampling = {
        "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3], "seed": seed,
        "steps": steps, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
    }  # fmt: skip
    demo = {"scene": "disc to the right", "frames": FRAMES, "batch_size": 1}
    shown = {
        "trace": ["3", 1], "samples": ["4", 0], "view": "motion", "step": -1, "colormap": "magma",
        "opacity": 0.6, "images": ["5", 0],
    }  # fmt: skip
    nodes = {
        "1": ("MotionCacheDemoModel", demo),
        "2": ("MotionCacheSettings", values),
        "3": (
            "MotionCachePatcher",
            {"model": ["1", 0], "preset": "balanced", "settings": ["2", 0]},
        ),
        "4": ("KSampler", {"model": ["3", 0], **sampling}),
        "5": ("MotionCacheDemoDecode", {"samples": ["4", 0], "scale": 2}),
        "6": ("PreviewImage", {"images": ["5", 0]}),
        "7": ("MotionCacheMotionMap", shown),
        "8": ("MotionCacheReport", {"trace": ["3", 1], "samples": ["4", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def test_the_pack_loads_in_the_servers_load_test(command, tmp_path):
    log_path = tmp_path / "log.txt"
    with log_path.open("wb") as log:
        process = start(command, log, "--quick-test-for-ci")
        try:
            code = process.wait(START_SECONDS)
        finally:
            stop(process)
    text = log_path.read_text(encoding="utf-8", errors="replace")
    assert code == 0, text[-4000:]
    assert re.search(rf"seconds: .*{NAME}$", text, re.MULTILINE), text[-4000:]
    assert complaints(text) == []


def test_the_server_tells_the_contract(server):
    told = server.get("/object_info")
    for node_id, (name, required, optional, outputs) in CONTRACT.items():
        info = told[node_id]
        assert info["display_name"] == name
        assert contract_inputs(info) == [required, optional]
        assert [info["output"], info["output_name"]] == [
            list(x) for x in zip(*outputs, strict=True)
        ]
        assert info["python_module"] == f"custom_nodes.{NAME}"


def test_the_page_gets_names_and_help_in_both_languages(server):
    served = server.get("/i18n")
    for language in ("en", "zh"):
        written = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
        assert set(written) == set(CONTRACT)
        for node_id, texts in written.items():
            assert served[language]["nodeDefs"][node_id] == texts


def test_the_help_of_every_node_is_where_the_page_looks_for_it(server):
    # the page joins a relative picture to the folder of the help files
    folder = f"/extensions/{NAME}/docs/"
    for node_id in CONTRACT:
        page = server.read(f"{folder}{node_id}.md").decode()
        assert page.startswith("# MotionCache"), node_id
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert pictures, node_id
        for picture in pictures:
            assert server.read(folder + picture).startswith(b"\xff\xd8"), picture


def test_a_whole_graph_runs(server):
    outputs = server.run(graph())
    assert len(outputs["6"]["images"]) == FRAMES
    assert len(outputs["7"]["images"]) == 1
    (words,) = outputs["8"]["text"]
    assert words.startswith("MotionCache: 24 steps (")
    assert " 0 reuse" not in words
    # the executor keeps the patched model: a second prompt uses it again
    (again,) = server.run(graph(seed=2))["8"]["text"]
    assert again.startswith("MotionCache: 24 steps (")
    assert len(re.findall(r"MotionCache - 24 steps", server.log)) == 2
    assert complaints(server.log) == []


def test_a_map_that_is_not_there_does_not_stop_the_prompt(server):
    outputs = server.run(graph(seed=3, steps=12, reuse_threshold=0.0))
    assert len(outputs["6"]["images"]) == FRAMES
    assert len(outputs["7"]["images"]) == 1
    assert "reuse_threshold is 0" in outputs["8"]["text"][0]
    (line,) = complaints(server.log)
    assert "no motion map was made: reuse_threshold is 0" in line


def test_an_error_reaches_the_user(server):
    twice = graph(seed=4)
    twice["9"] = {"class_type": "MotionCachePatcher", "inputs": {**twice["3"]["inputs"]}}
    twice["3"]["inputs"]["model"] = ["9", 0]
    key = server.post("/prompt", {"prompt": twice})["prompt_id"]
    done = server.wait_until(lambda: server.get(f"/history/{key}").get(key), RUN_SECONDS)
    assert done["status"]["status_str"] == "error"
    told = next(m for kind, m in done["status"]["messages"] if kind == "execution_error")
    assert told["node_type"] == "MotionCachePatcher"
    assert "this model already has MotionCache" in told["exception_message"]


def test_a_value_out_of_range_is_refused_before_it_runs(server):
    with pytest.raises(AssertionError, match="reuse_threshold"):
        server.post("/prompt", {"prompt": graph(reuse_threshold=-1.0)})
