"""Reports and pictures of a run whose chunks start and finish one after the other, by hand."""

import pytest
import torch
from motioncache_pack.motioncache_core.report.report_json import summary
from motioncache_pack.motioncache_core.report.report_text import line, text
from motioncache_pack.motioncache_core.report.run_summary import RunSummary
from motioncache_pack.motioncache_core.report.timeline import BACK, timeline
from motioncache_pack.motioncache_core.report.trace import (
    CallRecord,
    ChunkRecord,
    EvaluationRecord,
    Trace,
)
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.motioncache_core.settings import MotionCacheSettings

# two chunks of one frame with 4 tokens each are in the model's input
TOKENS, CHUNK = 8, 4
DENSE = ("dense", "warm-up", CHUNK)
CLEAN = ("dense", "clean", CHUNK)
REUSE = ("reuse", "uniform", 0)
UNSTARTED = ("reuse", "unstarted", 0)
DONE = ("reuse", "done", 0)


def evaluation(index, first_chunk, *chunks):
    rows = [ChunkRecord(kind, phase, active, CHUNK, 0.1) for kind, phase, active in chunks]
    needed = [not r.idle for r in rows]
    computed = sum(r.active for r in rows)
    # block-causal: the first chunk attends to 4 rows, the second to 8
    pairs = [CHUNK * 4 * (rows[0].active > 0), CHUNK * 8 * (rows[1].active > 0)]
    wanted = [CHUNK * 4 * needed[0], CHUNK * 8 * needed[1]]
    kind = "dense" if computed == CHUNK * sum(needed) else "reuse" if computed == 0 else "partial"
    call = CallRecord(
        kind, 1, 1, computed, seconds=1.0, needed=CHUNK * sum(needed), pairs=sum(pairs),
        needed_pairs=sum(wanted), window=TOKENS,
    )  # fmt: skip
    found = EvaluationRecord(index, 0.5, "all branches", tuple(rows), [call])
    found.first_chunk = found.first_frame = first_chunk
    return found


@pytest.fixture
def trace():
    """Chunk 0, then 1; then the window rolls on, and chunks 1 and 2 are in it."""
    return Trace(
        MotionCacheSettings().as_dict(),
        grid=(2, 2, 2),
        chunks=(1, 1),
        blocks=2,
        row_work=6 * 8 * 8 + 2 * 8 * 16,
        pair_work=2 * 8,
        evaluations=[
            evaluation(0, 0, DENSE, UNSTARTED),
            evaluation(1, 0, REUSE, DENSE),
            evaluation(2, 0, CLEAN, REUSE),
            evaluation(3, 1, DENSE, UNSTARTED),
            evaluation(4, 1, CLEAN, DENSE),
            evaluation(5, 1, DONE, REUSE),
        ],
    )


def test_chunks_that_have_nothing_to_do_are_no_saving(trace):
    # needed: 4 + 8 + 8 + 4 + 8 + 4, computed: 4 + 4 + 4 + 4 + 8 + 0
    run = RunSummary(trace)
    assert run.compute_share == pytest.approx(24 / 36)
    # linear layers of a row cost 6 * 64 + 2 * 8 * 16 = 640, a pair 2 * 8 = 16
    needed = 36 * 640 + (16 + 48 + 48 + 16 + 48 + 32) * 16
    assert run.flops_share == pytest.approx((24 * 640 + (16 + 32 + 16 + 16 + 48) * 16) / needed)
    assert run.engine_share == pytest.approx(needed / (6 * (8 * 640 + 64 * 16)))


def test_an_evaluation_is_named_by_the_chunks_at_work(trace):
    kinds = [e.kind for e in trace.evaluations]
    assert kinds == ["dense", "partial", "partial", "dense", "dense", "reuse"]
    assert [e.active_share for e in trace.evaluations] == [1, 0.5, 0.5, 1, 1, 0]
    assert "3 dense, 2 partial, 1 reuse" in line(trace)


def test_both_savings_are_told_apart(trace):
    report, share = text(trace), RunSummary(trace).engine_share
    assert "66.7% of the uncached run's tokens" in report
    assert f"Block-causal attention: {share:.1%} of the work" in report
    totals = summary(trace)["totals"]
    assert totals["engine_share"] == round(share, 6)
    assert totals["compute_share"] == round(24 / 36, 6)


def test_marks_stand_in_the_column_of_their_evaluation(trace):
    rows = [row for row in text(trace).splitlines() if ", chunk " in row]
    assert rows == [
        "  all branches, chunk 0: D.D",
        "  all branches, chunk 1:  D.DD",
        "  all branches, chunk 2:     D.",
    ]


def test_a_window_of_one_chunk_names_every_chunk(trace):
    for number in (0, 1):
        trace.evaluations[number].chunks = trace.evaluations[number].chunks[number:][:1]
        trace.evaluations[number].first_chunk = number
    trace.evaluations = trace.evaluations[:2]
    rows = [row for row in text(trace).splitlines() if row.startswith("  all branches")]
    assert rows == ["  all branches, chunk 0: D", "  all branches, chunk 1:  D"]


def test_a_short_last_chunk_alone_in_its_window_keeps_its_number():
    options = ForcingOptions(2, 4, window_frames=2)
    last = forcing_schedule(5, 4, options)[-1]
    assert (last.start, last.chunks) == (4, (1,))
    assert ForcingCall(last, (0.5,), options, 0.5).first_chunk == 2


def test_the_timeline_has_a_row_for_every_chunk_of_the_clip(trace):
    picture = timeline(trace, cell=16)[0]
    assert picture.shape == (3 * 48, 6 * 16, 3)
    back = torch.tensor(BACK)

    def empty(row, column):
        box = picture[row * 48 : (row + 1) * 48, column * 16 : (column + 1) * 16]
        return bool((box == back).all())

    cells = [[not empty(row, column) for column in range(6)] for row in range(3)]
    assert cells == [
        [True, True, True, False, False, False],
        [False, True, True, True, True, False],
        [False, False, False, False, True, True],
    ]


def test_a_run_that_only_warmed_up_says_so(trace):
    warm = evaluation(0, 0, DENSE, UNSTARTED)
    trace.evaluations = [warm, evaluation(1, 0, CLEAN, DENSE)]
    assert "fell into warm-up" in line(trace)
