"""What the node says while the sampler behind it runs."""

import importlib
import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from motioncache_pack.tests.support.node_runs import STEPS

NODE = "4:17"


class Page:
    """Stands for the server that has the page: keeps what it is asked to show."""

    def __init__(self):
        self.texts = []

    def send_progress_text(self, text, node_id, sid=None):
        self.texts.append((node_id, text))


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
    *during, last = (text for _, text in page.texts)
    calls = handle.latest.calls()
    assert len(during) == len(calls) == STEPS
    for i, text in enumerate(during, start=1):
        left_out = 1 - sum(c.computed for c in calls[:i]) / sum(c.needed for c in calls[:i])
        assert text.startswith(f"{i} evaluations, {left_out:.0%} reused so far")
    assert re.fullmatch(rf"{STEPS} evaluations, \d+% reused, about \d+\.\d s saved", last)


def test_texts_are_not_sent_faster_than_a_page_can_draw(pack, page, patched, monkeypatch):
    live = importlib.import_module("motioncache_pack.nodes.host.live_text")
    monkeypatch.setattr(live, "INTERVAL", 3600.0)
    model, _ = patched(pack.wan())
    pack.sample(model)
    assert len(page.texts) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"reuse_threshold": 0.0}, "threshold is 0"), ({"warmup_steps": 50}, "the protected end")],
)
def test_a_run_that_reuses_nothing_says_why(pack, page, patched, caplog, settings, words):
    model, _ = patched(pack.wan(), **settings)
    with caplog.at_level(logging.INFO):
        pack.sample(model)
    _, last = page.texts[-1]
    assert last.startswith("nothing was reused: ") and words in last
    # the log has the same sentence
    assert f"MotionCache - {last}." in caplog.messages


def broken(*args, **kwargs):
    raise RuntimeError("Event loop is closed")


@pytest.mark.parametrize(
    "server",
    [None, ModuleType("server"), SimpleNamespace(PromptServer=SimpleNamespace(instance=None)),
     SimpleNamespace(PromptServer=SimpleNamespace(
         instance=SimpleNamespace(send_progress_text=broken)))],
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
