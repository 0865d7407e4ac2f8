"""ComfyUI's context windows: a state for each, bit-identical without reuse, nothing kept."""

import json

import pytest
import torch
from motioncache_pack.motioncache_core.engine import block_hooks as engine
from motioncache_pack.tests.core.runs import dictate
from motioncache_pack.tests.support.node_runs import options_of

pytestmark = pytest.mark.comfy

FRAMES, SIZE = 7, 4
# 7 latent frames in windows of 3 that share 1: 0-2, 2-4 and 4-6
STATIC = [(0, 1, 2), (2, 3, 4), (4, 5, 6)]
BATCHED = [(0, 1, 2), (3, 4, 5), (6,)]


@pytest.fixture
def windows(host, comfy_version):
    """`windows(model, schedule)`: the model with context windows, as the host's node sets them."""
    if comfy_version < (0, 23):
        pytest.skip("this ComfyUI has another context window node")
    module = host.context_windows

    def cut(model, schedule="standard_static", fuse="pyramid", **changes):
        how = {
            "context_length": 3, "context_overlap": 1, "dim": 2, "freenoise": False, **changes,
        }  # fmt: skip
        model = model.clone()
        model.model_options["context_handler"] = module.IndexListContextHandler(
            module.get_matching_context_schedule(schedule),
            module.get_matching_fuse_method(fuse),
            **how,
        )
        module.create_prepare_sampling_wrapper(model)
        if how["freenoise"]:
            module.create_sampler_sample_wrapper(model)
        return model

    return cut


@pytest.fixture
def sample(pack):
    def run(model, frames=FRAMES, **kwargs):
        latent = pack.host.latent(frames=frames, height=SIZE, width=SIZE)
        return pack.sample(model, latent=latent, **kwargs)

    return run


def by_window(trace):
    """The evaluations of each window, in order."""
    found = {}
    for record in trace.evaluations:
        found.setdefault(record.scope, []).append(record)
    return found


@pytest.mark.parametrize(
    ("schedule", "fuse"),
    [
        ("standard_static", "pyramid"), ("batched", "relative"), ("standard_static", "flat"),
        ("batched", "overlap-linear"),
    ],
)  # fmt: skip
def test_without_reuse_nothing_changes(pack, windows, sample, schedule, fuse):
    model = windows(pack.wan(), schedule, fuse, freenoise=fuse == "flat")
    patched, handle = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(sample(patched, steps=9), sample(model, steps=9))
    assert "reuse_threshold is 0" in handle.latest.reason


# a threshold that is never crossed computes everything, through the hooks
@pytest.mark.parametrize(
    ("schedule", "anchored"),
    [("standard_static", True), ("standard_static", False), ("batched", True)],
)
def test_dense_evaluations_are_bit_identical(pack, windows, sample, schedule, anchored):
    model = windows(pack.wan(), schedule, causal_window_fix=anchored)
    patched, handle = pack.patch(model, warmup_steps=100)
    assert torch.equal(sample(patched, steps=9), sample(model, steps=9))
    trace = handle.latest
    frames = STATIC if schedule == "standard_static" else BATCHED
    assert [w.frames for w in trace.windows] == frames
    assert [w.anchor for w in trace.windows] == [
        f[0] - 1 if anchored and f[0] else None for f in frames
    ]
    found = by_window(trace)
    assert list(found) == ["window 0", "window 1", "window 2"]
    for window, records in zip(trace.windows, found.values(), strict=True):
        assert [r.chunks[0].tokens for r in records] == [4 * window.length] * 9


@pytest.mark.parametrize(
    ("schedule", "mask"), [("standard_static", "shared"), ("batched", "separate")]
)
def test_windows_reuse_each_its_own(pack, windows, sample, schedule, mask, kept):
    model = windows(pack.wan(), schedule)
    patched, handle = pack.patch(model, cfg_mask=mask, kv_cache="gpu")
    before = options_of(patched)
    got, wanted = sample(patched), sample(model)
    trace = handle.latest
    found = by_window(trace)
    assert len(found) == (3 if mask == "shared" else 6)
    for records in found.values():
        assert [r.kind for r in records][:2] == ["dense", "dense"]
        assert records[-1].kind == "dense"
        assert {r.kind for r in records} >= {"dense", "reuse"}
        assert [r.sigma for r in records] == sorted({r.sigma for r in records}, reverse=True)
    assert "partial" in {r.kind for r in trace.evaluations}
    assert {c.note for c in trace.calls()} == {""}
    assert trace.declined_calls == []
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.01
    again = sample(patched)
    assert torch.equal(got, again)
    assert options_of(patched) == before
    assert kept.refs
    assert kept.alive() == []


def test_the_report_counts_the_windows(pack, windows, sample):
    patched, handle = pack.patch(windows(pack.wan()), kv_cache="gpu")
    sample(patched)
    words, picture, data = pack.execute("MotionCacheReport", handle, {})
    assert "Context windows: 3 of 3 latent frames, 2 of them with an anchor frame before" in words
    assert "over 7 latent frames" in words
    assert "window 2: DD" in words
    assert "3 context windows together" in words
    found = json.loads(data)
    assert found["windows"][1] == {"frames": [2, 3, 4], "anchor": 1}
    assert picture.shape[-1] == 3
    (maps,) = pack.execute("MotionCacheMotionMap", handle, {}, "updates", -1, "magma", 0.5)
    assert len(maps) == 3
    # the map lies over its own frames, not over the whole video's
    images = torch.linspace(0, 1, 25).reshape(25, 1, 1, 1).expand(25, 32, 32, 3)
    (over,) = pack.execute("MotionCacheMotionMap", handle, {}, "updates", -1, "magma", 0.0, images)
    assert torch.allclose(over[:, 0, 0, 0], torch.tensor([0.0, 4, 8]) / 24)


def test_windows_that_move_pass_through(pack, windows, sample):
    schedule = "looped_uniform"
    model = windows(pack.wan(), schedule, context_stride=2)
    patched, handle = pack.patch(model)
    assert torch.equal(sample(patched, steps=10), sample(model, steps=10))
    trace = handle.latest
    assert "move from step to step" in trace.reason
    assert schedule in trace.reason and "standard_static" in trace.reason
    assert trace.evaluations == []


def test_windows_that_the_clip_fits_into_are_none(pack, windows, sample):
    patched, handle = pack.patch(windows(pack.wan(), "standard_uniform"))
    got = sample(patched, frames=3)
    alone, other = pack.patch(pack.wan())
    assert torch.equal(got, sample(alone, frames=3))
    assert handle.latest.windows == ()
    assert [e.kind for e in handle.latest.evaluations] == [e.kind for e in other.latest.evaluations]


def test_windows_of_another_dimension_pass_through(pack, windows, sample):
    model = windows(pack.wan(), dim=3, causal_window_fix=False)
    patched, handle = pack.patch(model)
    assert torch.equal(sample(patched, steps=9), sample(model, steps=9))
    assert "dimension 3" in handle.latest.reason


def test_partial_evaluations_inside_a_window_equal_dense_ones(pack, windows, sample, monkeypatch):
    """On unchanged input: the second evaluation of every window has the first one's."""
    model = windows(pack.wan())
    outputs, inputs = [], {}
    original = engine.BlockHooks._run_block

    def frozen(self, index, run, args, block):
        # what entered a window's first block in the first evaluation enters in the second too
        if index == 0:
            place = len(outputs) % 3
            kept_ = inputs.setdefault(place, (args["img"].clone(), args["vec"].clone()))
            args = {**args, "img": kept_[0].clone()}
            self.vec = kept_[1]
        out = original(self, index, run, {**args, "vec": self.vec}, block)
        if index == 1:
            outputs.append(out["img"].clone())
        return out

    monkeypatch.setattr(engine.BlockHooks, "_run_block", frozen)
    frames = [3, 4, 4]
    rows = [[0, 5], [1, 2, 9, 15], [3, 4, 7]]
    # 9 steps: dense, partial, then reuse
    plan = ["dense"] * 3 + rows + ["reuse"] * 3 * 7
    dictate(monkeypatch, *plan)
    patched, handle = pack.patch(model, kv_cache="gpu", dense_last=False)
    sample(patched, steps=9)
    for window in (1, 2):
        records = by_window(handle.latest)[f"window {window}"]
        assert [r.kind for r in records][:3] == ["dense", "partial", "reuse"]
        assert records[1].chunks[0].active == len(rows[window])
        assert records[0].chunks[0].tokens == 4 * frames[window]
        first, second = outputs[window], outputs[3 + window]
        assert first.std() > 0.1
        assert (first - second).abs().max() < 1e-5 * first.abs().max()


def test_an_interrupt_between_windows_leaves_nothing(pack, windows, sample, kept):
    model = windows(pack.wan())
    patched, handle = pack.patch(model, kv_cache="gpu")
    before = options_of(patched)
    calls = []

    def stop(*_):
        calls.append(1)
        # the second window of the sixth step
        if len(calls) == 17:
            raise pack.host.model_management.InterruptProcessingException

    hook = patched.model.diffusion_model.patch_embedding.register_forward_pre_hook(stop)
    try:
        with pytest.raises(pack.host.model_management.InterruptProcessingException):
            sample(patched)
    finally:
        hook.remove()
    assert kept.refs
    assert kept.alive() == []
    assert options_of(patched) == before
    assert handle.latest is None
    fresh, _ = pack.patch(windows(pack.wan()), kv_cache="gpu")
    assert torch.equal(sample(patched), sample(fresh))


def test_a_second_order_sampler_with_windows(pack, windows, sample):
    sampler = "heun"
    model = windows(pack.wan())
    patched, handle = pack.patch(model, kv_cache="gpu")
    got, wanted = sample(patched, sampler=sampler), sample(model, sampler=sampler)
    assert "reuse" in {r.kind for r in handle.latest.evaluations}
    assert (got - wanted).norm() / wanted.norm() < 0.02


def test_without_memory_for_all_windows_whole_windows_are_reused(
    pack, windows, sample, monkeypatch
):
    # keys and values of 2 blocks and 2 branches, width 128, fp32
    token = 2 * 2 * 2 * 128 * 4
    # enough for the largest window of 4 frames
    room = int(16 * token / 0.8) + 1000
    facts = "motioncache_pack.nodes.host.run_facts.memory_facts"
    monkeypatch.setattr(facts, lambda device: {"free_memory": lambda: room})
    patched, handle = pack.patch(windows(pack.wan()))
    sample(patched)
    trace = handle.latest
    assert {r.kind for r in trace.evaluations} == {"dense", "reuse"}
    assert "3 context windows together: keys and values need" in trace.kv_reason
    assert trace.kv_bytes == 0
    # a clip of one window's size keeps its keys and values
    alone, other = pack.patch(pack.wan())
    sample(alone, frames=4)
    assert other.latest.kv_bytes == 4 * 4 * token


def test_image_to_video_windows_with_an_anchor(host, windows, pack):
    """The conditions are cut like the latents, the anchor frame included."""
    from motioncache_pack.motioncache_core.demo.wan import DemoWan

    torch.manual_seed(2)
    weights = DemoWan(dim=128, ffn_dim=256, num_layers=2, in_dim=36, model_type="i2v").state_dict()
    weights["time_embedding.2.weight"] *= 0.1
    base = host.sd.load_diffusion_model_state_dict(dict(weights))
    assert base.model.image_to_video
    model = windows(base, cond_retain_index_list="0")
    rng = torch.Generator().manual_seed(4)
    image = torch.randn(1, 16, FRAMES, SIZE, SIZE, generator=rng)
    mask = torch.ones(1, 1, FRAMES, SIZE, SIZE)
    mask[:, :, 0] = 0.0
    given = {"concat_latent_image": image, "concat_mask": mask}
    texts = [[[host.text(seed)[0][0], dict(given)]] for seed in (1, 2)]
    latent = host.latent(frames=FRAMES, height=SIZE, width=SIZE)

    def run(model):
        return host.run(model, *texts, latent=latent, steps=14)

    wanted = run(model)
    zero, _ = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(run(zero), wanted)
    patched, handle = pack.patch(model, kv_cache="gpu")
    got = run(patched)
    assert {"dense", "reuse"} <= {e.kind for e in handle.latest.evaluations}
    assert (got - wanted).norm() / wanted.norm() < 0.02
    assert not torch.equal(wanted, run(windows(base)))
