"""Models in raylight's processes, with processes that are objects here; Ray's own are in
`tests/comfyui/test_raylight.py`."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import ConflictError, MotionCacheSettings
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.node_runs import marks, options_of

STEPS = 20


class Worker:
    """What raylight's RayWorker does with a model."""

    def __init__(self, model):
        self.model = model
        self.model_function_runner = SimpleNamespace(remote=self._change)
        self.model_function_runner_get_values = SimpleNamespace(remote=self._ask)

    def _change(self, function, *args):
        self.model = function(self.model, *args)

    def _ask(self, function, *args):
        return function(self.model, *args)


@pytest.fixture
def ray(monkeypatch):
    """Ray as far as the pack calls it."""
    by_value = []
    stand_in = SimpleNamespace(
        get=lambda found: found,
        cloudpickle=SimpleNamespace(register_pickle_by_value=by_value.append),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    return by_value


@pytest.fixture
def actors(pack):
    return {"workers": [Worker(pack.wan()) for _ in range(2)]}


def shared(monkeypatch, ranks=2):
    """As in a process of several that compute a run."""
    monkeypatch.setattr(torch.distributed, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)


def test_every_model_is_cached_and_the_first_one_tells(pack, ray, actors):
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    wanted, alone = pack.sample(model, STEPS), handle.latest
    handed, handle = pack.execute("MotionCacheRay", actors, "balanced")
    assert handed is actors
    # what is sent is known by no name there
    assert ray == [importlib.import_module("motioncache_pack.nodes.host.rank_worker")]
    assert handle.latest is None
    for worker in actors["workers"]:
        assert torch.equal(pack.sample(worker.model, STEPS), wanted)
    assert marks(handle.latest) == marks(alone)
    assert len(handle.runs) == 1
    assert "balanced" in pack.execute("MotionCacheReport", handle, {})[0]


def test_several_ranks_keep_to_the_schedule(pack, monkeypatch):
    """None goes by what it alone has measured: the others would wait for it."""
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    runs = []
    for ranks in (1, 2):
        shared(monkeypatch, ranks)
        pack.sample(model, 16)
        runs.append(handle.latest)
    assert ["towards the end" in " ".join(run.why) for run in runs] == [True, False]
    alone, among = map(marks, runs)
    assert alone != among and alone.count("D") == among.count("D")


def test_a_node_that_is_run_again_takes_its_own_place(pack, ray, actors):
    bare = [options_of(worker.model)["wrappers"] for worker in actors["workers"]]
    for preset in ("fast", "quality"):
        _, handle = pack.execute("MotionCacheRay", actors, preset)
    model, other = pack.execute("MotionCachePatcher", pack.wan(), "quality")
    assert torch.equal(pack.sample(actors["workers"][0].model, STEPS), pack.sample(model, STEPS))
    assert handle.latest.preset == other.latest.preset == "quality"
    _, handle = pack.execute("MotionCacheRay", actors, "off")
    assert code_of(handle.latest.reason) == "off"
    for worker, before in zip(actors["workers"], bare, strict=True):
        kept = {k: v for k, v in options_of(worker.model)["wrappers"].items() if any(v.values())}
        assert kept == {k: v for k, v in before.items() if any(v.values())}
        assert "motioncache" not in worker.model.model_options["transformer_options"]
    assert torch.equal(
        pack.sample(actors["workers"][1].model, STEPS), pack.sample(pack.wan(), STEPS)
    )


@pytest.mark.parametrize("key", ["easycache", "teacache"])
def test_raylights_own_caches_are_told_of(pack, ray, actors, key):
    actors["workers"][1].model.model_options.setdefault("transformer_options", {})[key] = object()
    with pytest.raises(ConflictError, match="Cache"):
        pack.execute("MotionCacheRay", actors, "balanced")


def test_single_tokens_are_no_ranks_own_matter(pack, monkeypatch):
    settings = MotionCacheSettings(compute_budget=0.5, policy="motion")
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "balanced", settings)
    shared(monkeypatch)
    pack.sample(model, STEPS)
    trace = handle.latest
    assert marks(trace).count("D") == STEPS // 2
    assert any("2 processes compute this run together" in remark for remark in trace.remarks)
    # a process on its own is like none
    shared(monkeypatch, ranks=1)
    pack.sample(model, STEPS)
    assert not any("processes compute" in remark for remark in handle.latest.remarks)


def test_a_pack_that_is_not_there_says_so(pack, tmp_path):
    rank_worker = importlib.import_module("motioncache_pack.nodes.host.rank_worker")
    with pytest.raises(RuntimeError, match="Install it there"):
        rank_worker.in_worker(None, "elsewhere", str(tmp_path / "none"), "told", b"")
