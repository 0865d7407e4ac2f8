"""Whole MAGI-1 runs against recorded ones of the published code, and what a wrong detail costs."""

import pytest
import torch
from motioncache_pack.motioncache_core.models.magi1 import network, passes, steps
from motioncache_pack.motioncache_core.models.magi1.chunk_keys import ChunkKeys
from motioncache_pack.motioncache_core.models.magi1.network import MagiNetwork
from motioncache_pack.motioncache_core.models.magi1.options import MagiOptions
from motioncache_pack.motioncache_core.models.magi1.steps import ChunkSteps
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_same

FP32 = (
    "distill", "distill_12", "distill_window1", "distill_i2v", "distill_v2v",
    "base", "base_i2v", "base_v2v", "base_24b",
)  # fmt: skip
# the least that any of the wrong details below costs, by a wide margin to fp32's rounding
SEEN = 5e-3


@pytest.mark.parametrize("name", FP32)
def test_the_published_latents_come_out(name):
    case = magi.recorded(name)
    assert case.error(magi.run(case).latents) <= magi.TOLERANCE


@pytest.mark.parametrize("published", [True, False], ids=["published", "fast"])
def test_in_bf16_it_is_off_by_no_more_than_twice_the_published_rounding(published):
    case = magi.recorded("distill_bf16")
    made = magi.network_of(case, published=published)
    assert case.error(magi.run(case, made).latents) <= 2 * magi.ROUNDING_BF16


@pytest.mark.parametrize("name", ["distill_i2v", "base_i2v", "distill_v2v"])
def test_given_frames_stay_as_they_were_given(name):
    case = magi.recorded(name)
    assert_same("given", case.prefix, magi.run(case).latents[:, :, : case.given])


@pytest.mark.parametrize("kv_cache", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["distill_v2v", "base"])
def test_keys_may_be_anywhere(name, kv_cache):
    case = magi.recorded(name)
    expected = magi.run(case).latents
    assert_same("latents", expected, magi.run(case, kv_cache=kv_cache).latents)


def test_keys_in_8_bits_cost_little():
    case = magi.recorded("distill")
    assert 1e-5 < case.error(magi.run(case, kv_cache="gpu_fp8").latents) < 3e-2


def test_no_more_than_five_chunks_are_kept():
    """Three chunks fit into the ring, five do, and a longer clip takes no more."""
    case = magi.recorded("distill")
    trace = magi.run(case).trace
    config = magi.network_of(case).config
    chunk = 36 * 2 * config.key_width * 4 * config.blocks
    assert trace.kv_bytes == 5 * chunk
    alone = magi.run(case, window=1).trace
    assert alone.kv_bytes == 5 * chunk
    assert "later chunks look at them" in trace.kv_reason


def test_what_a_run_did_is_told():
    case = magi.recorded("distill")
    run = magi.run(case)
    trace = run.trace
    assert trace.finished and trace.grid == (30, 2, 3) and trace.chunks == (6,) * 5
    assert len(trace.evaluations) == len(run.calls) == 16
    calls = trace.calls()
    # 5 chunks of 8 steps, the last 2 of each with a copy, and a look at 4 clean chunks
    assert sum(c.branches for c in calls) == run.evaluations == 5 * 8 + 5 * 2 + 4
    assert sum(c.computed for c in calls) == 36 * run.evaluations
    assert [c.phase for c in trace.evaluations[8].chunks] == ["clean", "", "", "", ""]
    assert [c.phase for c in trace.evaluations[0].chunks][1:] == ["unstarted"] * 4


def test_base_leaves_out_what_changes_nothing():
    case = magi.recorded("base")
    run = magi.run(case)
    # 6 steps of three passes, 2 of two; of the last chunk of one; two looks at 4 clean chunks
    assert run.evaluations == 5 * 6 * 3 + 4 * 2 * 2 + 2 + 4 * 2


# where the chunks of a clip are, written down from the published loop
@pytest.mark.parametrize(("steps_", "window"), [(8, 4), (8, 2), (8, 1), (12, 4), (16, 2), (64, 4)])
@pytest.mark.parametrize("whole", [0, 2])
def test_the_schedule_is_the_published_one(steps_, window, whole):
    chunks, inner = 6, steps_ // window
    expected = []
    for stage in range(whole, chunks + window - 1):
        low, high = max(whole, stage - window + 1), min(chunks, stage + 1)
        for i in range(inner):
            clean = {low - 1} if low > whole and i == 0 else set()
            if stage == whole and i == 0:
                clean |= set(range(whole))
            expected.append((clean, {c: (stage - c) * inner + i for c in range(low, high)}))
    plan = ChunkSteps(MagiOptions(steps=steps_, window=window))
    found = []
    for it in forcing_schedule(6 * chunks, steps_, plan.forcing, 6 * whole):
        clean = {i for i, c in enumerate(it.steps) if c.role == "clean"}
        found.append((clean, {i: c.step for i, c in enumerate(it.steps) if c.role == "active"}))
    assert found == expected


@pytest.mark.parametrize("count", range(4, 129, 4))
def test_stages_begin_where_guidance_changes(count):
    """The published code goes by the time; the last stage begins above 0.3, to the last bit."""
    plan = ChunkSteps(MagiOptions(steps=count, window=4))
    edges = torch.tensor((0.0, 0.0217, 0.1, 0.3)) - 1e-7
    for k, t in enumerate(plan.times[:-1]):
        assert plan.stage(k) == int((edges < t).sum()) - 1
        assert (plan.stage(k) == 3) == (float(t) > 0.3)
    assert plan.sigmas[0] == 1.0 and plan.sigmas[-1] == 0.0


def swap_rows(monkeypatch):
    monkeypatch.setattr(network, "_WITH_TEXT", -1)
    monkeypatch.setattr(network, "_WITHOUT_TEXT", -2)


def no_step_size(monkeypatch):
    condition = MagiNetwork.condition
    monkeypatch.setattr(
        MagiNetwork,
        "condition",
        lambda self, time, text, size, device: condition(self, time, text, None, device),
    )


def clean_with_other_row(monkeypatch):
    """The clean look goes by the row without text."""
    condition = MagiNetwork.condition
    monkeypatch.setattr(
        MagiNetwork,
        "condition",
        lambda self, time, text, size, device: condition(
            self, time, text and time != steps.CLEAN_TIME, size, device
        ),
    )


def reach_of_five(monkeypatch):
    monkeypatch.setattr(steps, "_REACH", (5, 5, 5, 5))


def borrow_at_once(monkeypatch):
    """The pass with text reads the other pass's keys in the step with a clean look, too."""
    begin = passes.ChunkPasses.show_clean

    def show_clean(self, chunk, x, given):
        begin(self, chunk, x, given=True)

    monkeypatch.setattr(passes.ChunkPasses, "show_clean", show_clean)


def own_clean_keys_for_good(monkeypatch):
    monkeypatch.setattr(ChunkKeys, "copy", lambda self, chunk, source: None)


WRONG = [
    ("distill", swap_rows, {}, 1e-2),
    ("base", swap_rows, {}, 1e-1),
    ("distill", clean_with_other_row, {}, SEEN),
    ("distill", reach_of_five, {}, SEEN),
    ("base", reach_of_five, {}, SEEN),
    ("distill", no_step_size, {}, 1e-1),
    ("distill", None, {"clean_pass": False}, 1e-2),
    ("base", None, {"clean_pass": False}, 1e-2),
    ("distill", None, {"near_clean": False}, 1e-2),
    ("distill", None, {"window": 1}, 1e-2),
    ("distill_12", None, {"twelve_steps": "late"}, SEEN),
    ("base", borrow_at_once, {}, SEEN),
    ("base", own_clean_keys_for_good, {}, SEEN),
]


@pytest.mark.parametrize(
    ("name", "spoil", "changes", "least"),
    WRONG,
    ids=[f"{n}-{s.__name__ if s else '-'.join(c)}" for n, s, c, _ in WRONG],
)
def test_a_wrong_detail_is_seen(name, spoil, changes, least, monkeypatch):
    case = magi.recorded(name)
    if spoil is not None:
        spoil(monkeypatch)
    assert case.error(magi.run(case, **changes).latents) > least


def test_an_evaluation_may_be_prevented():
    case, left = magi.recorded("distill"), 20

    def before():
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        magi.run(case, before=before)
    assert left == -1


def test_out_of_memory_moves_keys_and_goes_on(monkeypatch):
    case, left = magi.recorded("base"), [30]
    chunk = MagiNetwork.chunk

    def short(self, *args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("none left")
        return chunk(self, *args, **kwargs)

    monkeypatch.setattr(MagiNetwork, "chunk", short)
    run = magi.run(case)
    assert "gpu_fp8" in run.trace.kv_reason and run.trace.kv_reasons
    # from there on keys and values are kept in 8 bits
    assert 1e-5 < case.error(run.latents) < 0.1


def test_out_of_memory_without_a_place_to_go_is_raised(monkeypatch):
    def none(self, *args, **kwargs):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(MagiNetwork, "chunk", none)
    with pytest.raises(torch.OutOfMemoryError, match="none left"):
        magi.run(magi.recorded("distill"))
