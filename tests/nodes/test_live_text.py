"""What the node says while the sampler behind it runs."""

import importlib
import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import Trace, TraceHandle
from motioncache_pack.motioncache_core.report.report_text import text as report
from motioncache_pack.tests.support.chinese import put
from motioncache_pack.tests.support.node_runs import STEPS

NODE = "4:17"


class Page:
    """Stands for the server that has the page: keeps what it is asked to show."""

    client_id = None
    last_prompt_id = "7"

    def __init__(self):
        self.texts = []
        self.pages = set()

    def send_sync(self, event, data, sid=None):
        assert event == "motioncache_text"
        assert set(data) == {"node", "text", "said", "prompt_id"} and data["prompt_id"] == "7"
        # a page in another language makes the same of it, but for the breaks
        assert put(data["said"], {}).split() == data["text"].split()
        self.texts.append((data["node"], data["text"]))
        self.pages.add(sid)


@pytest.fixture
def page(monkeypatch):
    found = Page()
    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(instance=found)
    monkeypatch.setitem(sys.modules, "server", server)
    live = importlib.import_module("motioncache_pack.nodes.host.live_text")
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    return found


@pytest.fixture
def patched(pack, monkeypatch):
    """A patched model as the executor makes it, which tells the node its id."""
    node = pack.nodes["MotionCachePatcher"]
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=NODE))
    return pack.patch


def test_every_call_is_told_with_the_traces_own_numbers(pack, page, patched):
    model, handle = patched(pack.wan())
    pack.sample(model)
    assert {node for node, _ in page.texts} == {NODE}
    before, planned, *during, last = (text for _, text in page.texts)
    assert before == planned
    assert before.startswith("settings are connected,\npreset is not used\n")
    calls = handle.latest.calls()
    assert len(during) == len(calls) == STEPS
    for i, text in enumerate(during, start=1):
        left_out = 1 - sum(c.computed for c in calls[:i]) / sum(c.needed for c in calls[:i])
        assert text == f"step {i} of {STEPS} · {100 * left_out:.0f}\u00a0% reused"
    assert re.fullmatch(r"\d+\u00a0% reused · about \d+\.\dx faster", last)


def test_before_the_run_the_node_says_what_to_expect(pack, page, monkeypatch):
    node = pack.nodes["MotionCachePatcher"]
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=NODE))
    told = {}
    for preset in ("off", "balanced", "motion", "paper"):
        pack.execute("MotionCachePatcher", pack.wan(), preset)
        told[preset] = page.texts[-1][1]
    assert told["balanced"] == "computes 40\u00a0% of the steps\nup to 2.5x faster in the sampler"
    assert told["motion"] == "computes 40\u00a0% of the tokens\nup to 2.5x faster in the sampler"
    assert "the preset is off" in told["off"] and "depends on the video" in told["paper"].replace(
        "\n", " "
    )
    # the page would break a longer line anywhere, in a number too
    assert max(len(line) for text in told.values() for line in text.split("\n")) <= 32


def test_keys_and_values_are_told_before_a_block_is_computed(pack, page, patched, monkeypatch):
    told = importlib.import_module("motioncache_pack.motioncache_core.report.node_text")
    monkeypatch.setattr(told, "_MATTERS", 1)
    model, handle = patched(pack.wan(), compute_budget=0.5)
    network, seen = model.model.diffusion_model, []
    network.blocks[0].register_forward_hook(lambda *_: seen.append(page.texts[-1][1]))
    pack.sample(model)
    first = seen[0].split("\n")
    assert first[2:4] == ["computes 50\u00a0% of the tokens", "up to 2.0x faster in the sampler"]
    assert re.fullmatch("keys and values 0.0\u00a0GB, on the model's device", first[4])
    assert first[5:] == ["for 2 prompts together"] and "for 2" not in seen[-1]
    trace = handle.latest
    assert (trace.kv_planned.nbytes, trace.kv_planned.host_bytes) == (trace.kv_bytes, 0)
    size = f"{trace.kv_bytes / 2**20:.1f} MiB"
    assert f"\nForeseen: keys and values {size} for 2 prompts together\n" in report(trace)


@pytest.mark.parametrize("told", ["both traces", "one trace", "another node's"])
def test_where_the_gain_is_measured_no_estimate_stands_beside_it(pack, page, monkeypatch, told):
    other, links = NODE if told != "another node's" else "5", {"reference_trace": ["1", 4]}
    compare = {
        "class_type": "MotionCacheCompare",
        "inputs": {"trace": [other, 1], **(links if told != "one trace" else {})},
    }
    shown = {"class_type": "MotionCacheReport", "inputs": {"trace": [NODE, 1]}}
    prompt = {"9": compare, "8": shown}
    for name, node_id in (("MotionCachePatcher", NODE), ("MotionCacheReport", "8")):
        hidden = SimpleNamespace(unique_id=node_id, prompt=prompt)
        monkeypatch.setattr(pack.nodes[name], "hidden", hidden)
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    samples = pack.sample(model)
    said, (words, *_) = (
        page.texts[-1][1],
        pack.execute("MotionCacheReport", handle, {"samples": samples}),
    )
    estimated = told != "both traces"
    assert estimated == (" · about " in said) == ("(estimate:" in words)
    assert estimated == ("MotionCache Compare measures what it gained" not in words)
    reference = TraceHandle()
    reference.add(Trace({}, seconds=3 * handle.latest.seconds, finished=True))
    video = torch.zeros(2, 16, 16, 3)
    pack.execute("MotionCacheCompare", video, video, "side by side", 0.0, 0.5, reference, handle)
    assert page.texts[-1] == (
        NODE,
        f"{said.split(' · ')[0]} · 3.0x faster\n(measured, not estimated)",
    )


def test_the_time_of_a_run_that_is_left_alone_is_told(pack, page, monkeypatch):
    node = pack.nodes["MotionCachePatcher"]
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=NODE))
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "off")
    wanted = pack.sample(pack.wan())
    assert pack.sample(model).equal(wanted)
    assert re.fullmatch(r"\d+\.\d s in the sampler, nothing reused", page.texts[-1][1])
    assert handle.latest.seconds > 0 and handle.latest.steps == STEPS
    assert f"\nTime: {handle.latest.seconds:.2f} s in the sampler" in report(handle.latest)


def test_texts_are_not_sent_faster_than_a_page_can_draw(pack, page, patched, monkeypatch):
    live = importlib.import_module("motioncache_pack.nodes.host.live_text")
    monkeypatch.setattr(live, "INTERVAL", 3600.0)
    model, _ = patched(pack.wan())
    pack.sample(model)
    assert len(page.texts) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"reuse_threshold": 0.0}, "threshold is 0"), ({"warmup_steps": 50}, "the protected end")],
)
def test_a_run_that_reuses_nothing_says_why(pack, page, patched, caplog, settings, words):
    model, _ = patched(pack.wan(), **settings)
    with caplog.at_level(logging.INFO):
        pack.sample(model)
    _, last = page.texts[-1]
    plain = last.replace("\n", " ")
    assert plain.startswith("nothing was reused: ") and words in plain
    # the log has the same sentence
    assert f"MotionCache - {plain}." in caplog.messages


def test_only_the_page_that_queued_the_run_is_told(pack, page, patched, monkeypatch):
    monkeypatch.setattr(page, "client_id", "one of two pages")
    model, _ = patched(pack.wan())
    pack.sample(model)
    assert page.texts and page.pages == {"one of two pages"}


def broken(*args, **kwargs):
    raise RuntimeError("Event loop is closed")


@pytest.mark.parametrize(
    "server",
    [None, ModuleType("server"), SimpleNamespace(PromptServer=SimpleNamespace(instance=None)),
     SimpleNamespace(PromptServer=SimpleNamespace(
         instance=SimpleNamespace(send_sync=broken)))],
    ids=["no module", "another module", "not started", "page gone"],
)  # fmt: skip
def test_a_run_does_not_depend_on_a_page(pack, patched, monkeypatch, server):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    wanted, _ = pack.cached()
    if server is not None:
        monkeypatch.setitem(sys.modules, "server", server)
    model, handle = patched(pack.wan())
    assert pack.sample(model).equal(wanted)
    assert len(handle.latest.evaluations) == STEPS


def test_outside_of_the_executor_nothing_is_shown(pack, page):
    pack.cached()
    assert page.texts == []
