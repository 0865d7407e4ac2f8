"""Report, motion map and log line: their numbers are what really happened."""

import json
import logging

import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError, Trace, TraceHandle
from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.tests.support.node_runs import LAYERS, STEPS, marks


class Counter:
    """The test's own count of a run: calls of the network, and rows that its blocks got."""

    def __init__(self, pack, model):
        self.calls, self.rows = [], []
        network = model.model.diffusion_model
        self.hooks = [b.register_forward_hook(self.block) for b in network.blocks]
        kind = pack.host.patcher_extension.WrappersMP.DIFFUSION_MODEL
        model.add_wrapper_with_key(kind, "test counter", self.call)

    def call(self, executor, x, *args, **kwargs):
        self.calls.append((x.shape[0], x[0, 0, :, ::2, ::2].numel(), len(self.rows)))
        return executor(x, *args, **kwargs)

    def block(self, module, args, out):
        self.rows.append(args[0].shape[0] * args[0].shape[1])

    def share(self):
        return sum(self.rows) / (LAYERS * sum(rows * tokens for rows, tokens, _ in self.calls))

    def kinds(self):
        """D, p or . of each call, by what reached the blocks."""
        ends = [start for *_, start in self.calls[1:]] + [len(self.rows)]
        found = ""
        for (rows, tokens, start), end in zip(self.calls, ends, strict=True):
            share = sum(self.rows[start:end]) / (LAYERS * rows * tokens)
            found += "." if share == 0 else "D" if share == 1 else "p"
        return found


@pytest.fixture
def counted(pack):
    """A patched model, its handle and a counter that was on it before the node."""
    model = pack.wan()
    counter = Counter(pack, model)
    patched, handle = pack.patch(model)
    yield patched, handle, counter
    for hook in counter.hooks:
        hook.remove()


def report(pack, handle):
    words, timeline, data = pack.execute("MotionCacheReport", handle, {"samples": None})
    return words, timeline, json.loads(data)


@pytest.mark.parametrize("run", ["together", "apart", "batch", "heun", "few", "odd"])
def test_totals_equal_an_independent_count(pack, counted, run, monkeypatch):
    patched, handle, counter = counted
    if run == "apart":
        pack.host.run_short_of_memory(monkeypatch)
    latent = pack.host.latent()
    how = {
        "batch": {"latent": latent.repeat(2, 1, 1, 1, 1)},
        "heun": {"sampler": "heun"},
        "few": {"steps": 7},
        "odd": {"latent": pack.host.latent(frames=2, height=7, width=9)},
    }
    pack.sample(patched, **how.get(run, {}))
    _, _, found = report(pack, handle)
    totals = found["totals"]
    assert totals["calls"] == len(counter.calls)
    assert totals["compute_share"] == pytest.approx(counter.share(), abs=1e-6)
    kinds = counter.kinds()
    if run == "few":
        assert kinds == "D" * 7
        assert totals["declined_calls"] == 7
        assert totals["evaluations"] == totals["block_calls"] == 0
        return
    assert totals["block_calls"] == len(counter.rows)
    per_evaluation = 2 if run == "apart" else 1
    assert kinds[::per_evaluation] == marks(handle.latest)
    assert totals["evaluations"] == len(kinds) // per_evaluation
    for name, mark in (("dense", "D"), ("partial", "p"), ("reuse", ".")):
        assert totals[name] == kinds[::per_evaluation].count(mark)
    assert totals["compute_share"] < 1
    assert totals["flops_share"] < 1


def test_the_json_report_is_whole(pack):
    model, handle = pack.patch(pack.wan())
    pack.sample(model)
    words, _, found = report(pack, handle)
    assert found["schema"] == 1
    assert found["settings"] == handle.latest.settings
    assert found["tokens"] == {"grid": [3, 4, 4], "chunks": [3], "total": 48}
    assert found["reason"] is None
    # residual and K/V of both branches, fp32, width 128
    assert found["memory"]["residual_bytes"] == 2 * 48 * 128 * 4
    assert found["memory"]["kv_bytes"] == 2 * LAYERS * found["memory"]["residual_bytes"]
    assert [e["index"] for e in found["evaluations"]] == list(range(STEPS))
    assert f"{STEPS} steps (" in words
    drawn = words.split("all branches: ")[1].split("\n")[0]
    assert len(drawn) == STEPS
    assert [m for m in drawn if m in "D."] == [m for m in marks(handle.latest) if m in "D."]


def test_the_node_shows_its_text(pack):
    model, handle = pack.patch(pack.wan())
    pack.sample(model)
    out = pack.nodes["MotionCacheReport"].execute(handle, {})
    assert out.ui["text"] == (out.result[0],)
    assert len(out.ui["images"]) == 1


def warns_beside(line):
    """Of few steps, or of settings that the helpers' own make vain."""
    return "sampling steps: between warm-up" in line or "nothing depends on" in line


def our_lines(caplog):
    lines = [r.getMessage() for r in caplog.records]
    return [s for s in lines if s.startswith("MotionCache - ") and not warns_beside(s)]


def test_one_line_in_the_log_says_what_was_saved(pack, counted, caplog):
    patched, _, counter = counted
    with caplog.at_level(logging.INFO):
        pack.sample(patched)
    (line,) = our_lines(caplog)
    kinds = counter.kinds()
    counts = f"{kinds.count('D')} dense, {kinds.count('p')} partial, {kinds.count('.')} reuse"
    assert f"{STEPS} steps ({counts}); {counter.share():.0%} of" in line


def test_verbose_logs_every_evaluation(pack, caplog):
    with caplog.at_level(logging.INFO):
        pack.cached(settings={"verbose": True})
    assert len(our_lines(caplog)) == STEPS + 1


def show(pack, handle, view="motion", step=-1, colormap="gray", opacity=0.6, images=None):
    return pack.execute("MotionCacheMotionMap", handle, {}, view, step, colormap, opacity, images)


@pytest.fixture(scope="module")
def finished(pack):
    model, handle = pack.patch(pack.wan())
    pack.sample(model)
    return handle


def test_the_map_is_one_picture_per_latent_frame(pack, finished):
    (maps,) = show(pack, finished)
    assert maps.shape == (3, 4 * 16, 4 * 16, 3)
    assert 0 <= maps.min() < maps.max() <= 1
    weight = [e.weight for e in finished.latest.evaluations if e.weight is not None][-1]
    tokens = maps[:, ::16, ::16, 0].flatten()
    order = torch.from_numpy(weight.astype("int64"))
    # brighter where the weight is larger
    assert (tokens[order.argsort()].diff() >= -1e-6).all()
    # 1 is the share that always counts and the reach of sensitivity is spread over the picture
    assert maps.amin(dim=(1, 2, 3)).max() < 0.02
    assert maps.amax(dim=(1, 2, 3)).min() > 0.98


def test_views_of_one_evaluation(pack, finished):
    partial = marks(finished.latest).index("p")
    active = torch.from_numpy(finished.latest.active_mask(partial)).float().reshape(3, 4, 4)
    # people count from 1
    (shown,) = show(pack, finished, "active", partial + 1)
    assert torch.equal(shown[:, ::16, ::16, 0], active)
    assert 0 < active.mean() < 1
    for view, step, value in (("active", 1, 1.0), ("active", 3, 0.0), ("updates", 2, 1.0)):
        assert (show(pack, finished, view, step)[0] == value).all()
    (updates,) = show(pack, finished, "updates", 4)
    assert updates.unique().tolist() == [0.5]
    (stale,) = show(pack, finished, "staleness", partial + 1)
    assert ((stale[:, ::16, ::16, 0] == 0) == (active == 1)).all()


@pytest.mark.parametrize("colormap", ["magma"])
def test_colormaps_go_from_dark_to_light(pack, finished, colormap):
    (gray,), (maps,) = show(pack, finished), show(pack, finished, colormap=colormap)
    brightness, level = maps.sum(-1).flatten(), gray[..., 0].flatten()
    assert brightness[level.argmax()] > brightness[level.argmin()] + 0.7


def test_the_map_over_images(pack, finished):
    images = torch.rand(9, 20, 24, 3)
    (under,) = show(pack, finished, images=images, opacity=0.0)
    assert torch.equal(under, images[[0, 4, 8]])
    (over,) = show(pack, finished, images=images, opacity=1.0)
    assert torch.equal(over[:, ::5, ::6], show(pack, finished)[0][:, ::16, ::16])


@pytest.fixture
def notice(pack, caplog):
    """The node shows one picture of words in place of the map, and logs the words once."""

    def check(handle, **inputs):
        with caplog.at_level(logging.WARNING):
            (picture,) = show(pack, handle, **inputs)
        assert picture.shape[0] == 1
        assert picture.min() < 0.2 < 0.8 < picture.max()
        (record,) = [
            r
            for r in caplog.records
            if "MotionCache" in r.getMessage() and not warns_beside(r.getMessage())
        ]
        assert record.levelno == logging.WARNING
        return record.getMessage()

    return check


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reuse_threshold": 0.0}, "nothing to show: reuse_threshold is 0"),
        ({"policy": "chunk"}, "policy 'chunk' does not weigh tokens"),
        ({"kv_cache": "off"}, "kv_cache is off"),
    ],
    ids=str,
)
def test_a_run_without_a_motion_map_says_why(pack, notice, settings, words):
    model, handle = pack.patch(pack.wan(), **settings)
    pack.sample(model)
    assert words in notice(handle)


@pytest.mark.parametrize(
    ("node", "runs"), [("MotionCacheReport", []), ("MotionCacheMotionMap", [Trace({})])]
)
def test_before_a_finished_run_the_nodes_say_what_to_connect(pack, node, runs):
    more = () if node == "MotionCacheReport" else ("motion", -1, "magma", 0.6)
    handle = TraceHandle()
    handle.runs.extend(runs)
    with pytest.raises(MotionCacheError, match="Connect `samples` to the LATENT output"):
        pack.execute(node, handle, {}, *more)


def test_without_a_trace_they_say_that_it_is_bypassed_and_the_workflow_goes_on(pack, notice):
    words, timeline, data = pack.execute("MotionCacheReport", samples={})
    assert f"MotionCache: nothing was reused: {because('no_trace')}." == words
    assert json.loads(data)["reason"] == because("no_trace") and timeline.isfinite().all()
    assert because("no_trace") in notice(None)
    sheet = pack.execute("MotionCacheMotionMap", samples={}, layout="steps")[0]
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3
