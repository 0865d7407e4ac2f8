"""`tests/bench/own_model/run.py` as a user starts it, against a real ComfyUI server."""

import json
import re
import signal
import subprocess
import sys

import pytest
from motioncache_pack.tests.comfyui.test_server import (  # noqa: F401
    ROOT,
    command,
    free_port,
    server,
)
from PIL import Image

pytestmark = pytest.mark.comfy

PROMPTS = ("disc to the right", "square falling")
POLICIES = ("fast", "step", "LazyCache")
FRAMES, STEPS, SECONDS = 3, 16, 300


def workflow(scene="{prompt}", model=("2", 0), **sampling):
    """The demo model as a user would export it, its scene in the prompt's place."""
    given = {
        "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3], "model": list(model),
        "seed": 5, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple",
        "denoise": 1.0, **sampling,
    }  # fmt: skip
    demo = {"scene": scene, "frames": FRAMES, "batch_size": 1}
    nodes = {
        "1": ("MotionCacheDemoModel", demo),
        "2": ("MotionCachePatcher", {"model": ["1", 0], "preset": "paper"}),
        "3": ("KSampler", given),
        "4": ("MotionCacheDemoDecode", {"samples": ["3", 0], "scale": 1}),
        "5": ("SaveImage", {"images": ["4", 0], "filename_prefix": "of the user"}),
        "6": ("MotionCacheReport", {"trace": ["2", 1], "samples": ["3", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


@pytest.fixture
def line(server, tmp_path):  # noqa: F811
    """`line(graph, ...)`: how the script is started on a workflow."""

    def make(graph, *more, prompts=PROMPTS):
        (tmp_path / "my_api.json").write_text(json.dumps(graph), "utf-8")
        (tmp_path / "prompts.txt").write_text("\n".join(prompts), "utf-8")
        script = ROOT / "tests" / "bench" / "own_model" / "run.py"
        told = [sys.executable, str(script), "--workflow", str(tmp_path / "my_api.json")]
        told += ["--server", server.base, "--out", str(tmp_path / "out"), "--seeds", "1"]
        told += ["--policies", *POLICIES, *more]
        return [*told, "--prompts", str(tmp_path / "prompts.txt")] if prompts else told

    return make


def finish(told):
    done = subprocess.run(told, capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stdout, done.stderr


def records(folder):
    return [json.loads(text) for text in (folder / "runs.jsonl").read_text("utf-8").splitlines()]


def test_a_user_gets_the_table(server, line, tmp_path):  # noqa: F811
    saved = [r["filename"] for r in pictures(server)]
    code, said, wrong = finish(line(workflow()))
    assert code == 0, said + wrong
    out = tmp_path / "out"
    found = json.loads((out / "real_model.json").read_text("utf-8"))
    assert found["clips"] == 2 and found["prompts"] == list(PROMPTS)
    assert list(found["policies"]) == ["none, again", *POLICIES]
    # the host's own arithmetic repeats itself, so that what differs is due to the policy
    assert found["policies"]["none, again"]["identical"] == 2
    for name in POLICIES:
        told = found["policies"][name]
        assert told["runs"] == 2 and told["failures"] == {} and told["speedup"]["mean"] > 0
    for name, budget in (("fast", 0.3), ("step", 0.4)):
        told = found["policies"][name]
        # whole evaluations of a short run make the share coarse
        assert abs(told["compute_share"]["mean"] - budget) < 0.05
        assert 30 < told["psnr"]["mean"] < 90
    assert found["policies"]["fast"]["distance"] == []
    assert found["policies"]["step"]["distance"] == ["steps (compute_budget 0.4)"]
    assert found["policies"]["LazyCache"]["compute_share"] is None
    assert (out / "table.md").read_text("utf-8").strip() in said
    sheets = sorted(out.glob("sheet_*.png"))
    assert len(sheets) == 2
    with Image.open(sheets[0]) as sheet:
        assert sheet.height > 5 * 200
    # nothing of it stays in the user's own folders
    assert [r["filename"] for r in pictures(server)] == saved
    runs = records(out)
    assert len(runs) == 2 * 5 and all(set(r["sampler_seconds"]) == {"3"} for r in runs)
    assert all(0 < r["seconds"] <= r["total_seconds"] for r in runs)
    code, said, wrong = finish(line(workflow()))
    assert code == 0 and "0 runs to make" in said, said + wrong
    assert records(out) == runs


def pictures(server):  # noqa: F811
    """What the history says was saved for good."""
    shown = [o for entry in server.get("/history").values() for o in entry["outputs"].values()]
    return [i for output in shown for i in output.get("images", ()) if i["type"] == "output"]


def listens():
    # a shell's background jobs ignore Ctrl-C, and so do their children
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_the_servers_job_and_loses_one_run_at_most(server, line, tmp_path):  # noqa: F811
    told = line(workflow(steps=40), prompts=PROMPTS[:1])
    process = subprocess.Popen(
        told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listens
    )
    try:
        for text in process.stdout:
            if text.startswith("1 of "):
                break
        process.send_signal(signal.SIGINT)
        _, wrong = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 1 and "start it again to go on" in wrong
    queue = server.get("/queue")
    assert queue["queue_running"] == queue["queue_pending"] == []
    kept = records(tmp_path / "out")
    assert [r["policy"] for r in kept] in (["none"], ["none", "none, again"])
    code, said, wrong = finish(told)
    assert code == 0 and f"{5 - len(kept)} runs to make" in said, said + wrong
    assert records(tmp_path / "out")[: len(kept)] == kept
    assert len(records(tmp_path / "out")) == 5


def test_an_error_of_a_node_is_kept_and_the_sweep_goes_on(server, line, tmp_path):  # noqa: F811
    graph = workflow()
    # a second cache on the model, which only the cache itself sees
    graph["7"] = {"class_type": "MotionCachePatcher", "inputs": {**graph["2"]["inputs"]}}
    graph["2"]["inputs"]["model"] = ["7", 0]
    code, said, wrong = finish(line(graph, prompts=PROMPTS[:1]))
    assert code == 0, said + wrong
    errors = {r["policy"]: r["error"] for r in records(tmp_path / "out")}
    assert "ConflictError: this model already has MotionCache" in errors["fast"]
    assert errors["none"] is errors["none, again"] is None
    assert "fast failed in 1 clips" in said
    # the server is as it was
    assert server.get("/queue")["queue_running"] == []


@pytest.mark.parametrize(
    ("graph", "prompts", "words"),
    [
        (workflow(scene="no such scene"), (), "does not take the workflow.*MotionCacheDemoModel"),
        (workflow(model=("1", 0)), PROMPTS, "reaches no sampler"),
        ({"nodes": [], "links": []}, PROMPTS, "Export .API."),
        (workflow(), (), "--prompts"),
    ],
)
def test_what_a_user_is_told(line, tmp_path, graph, prompts, words):
    code, said, wrong = finish(line(graph, prompts=prompts))
    assert code == 1 and wrong.startswith("real_model: "), said + wrong
    assert re.search(words, wrong), wrong
    assert "Traceback" not in wrong and not list(tmp_path.glob("out/*.json"))


def test_a_server_that_is_not_there(line):
    told = line(workflow(), "--server", f"http://127.0.0.1:{free_port()}")
    code, _, wrong = finish(told)
    assert code == 1 and "no ComfyUI answers" in wrong and "Traceback" not in wrong
