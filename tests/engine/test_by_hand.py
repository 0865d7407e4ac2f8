"""Dense, partial and reused calls of a network that doubles, worked out by hand."""

import pytest
import torch
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.support.toy_models import DoublingNet


def clip(*tokens, channels=2, height=1):
    """A latent `(1, C, F, height, w)` whose tokens hold one number each."""
    x = torch.tensor(tokens, dtype=torch.float32)
    return x.reshape(1, 1, -1, height, 1).repeat(1, channels, 1, 1, 1)


def numbers(out):
    assert torch.equal(out[:, 0], out[:, 1])
    return out[0, 0].reshape(-1).tolist()


def test_a_dense_call_is_the_network_itself(monkeypatch):
    dictate(monkeypatch, "dense")
    net = DoublingNet(blocks=2)
    assert numbers(Run(net).call(clip(3, 4, 5), 1000)) == [12, 16, 20]
    assert net.calls == [3, 3]


def test_a_reused_call_adds_what_the_blocks_added_before(monkeypatch):
    dictate(monkeypatch, "dense", "reuse", "reuse")
    net = DoublingNet(blocks=2)
    run = Run(net)
    run.call(clip(11, 0, 1), 1000)
    # residuals 33, 0, 3; a computed 11 is 44, a reused 8 is 41
    assert numbers(run.call(clip(8, 1, 1), 900)) == [41, 1, 4]
    assert numbers(run.call(clip(0, 0, 0), 800)) == [33, 0, 3]
    assert net.calls == [3, 3]
    assert run.kinds == ["dense", "reuse", "reuse"]


def test_a_partial_decision_is_carried_out_in_full_without_keys_and_values(monkeypatch):
    dictate(monkeypatch, "dense", [1, 2], "reuse")
    net = DoublingNet(blocks=2, attention=0)
    run = Run(net)
    run.call(clip(1, 2, 3), 1000)
    assert numbers(run.call(clip(5, 6, 7), 900)) == [20, 24, 28]
    assert run.trace.evaluations[1].calls[0].note.code == "kv_incomplete"
    assert numbers(run.call(clip(0, 0, 0), 800)) == [15, 18, 21]
    assert net.calls == [3, 3, 3, 3]
    assert run.decided == ["dense", "partial", "reuse"]
    assert run.kinds == ["dense", "dense", "reuse"]


def test_partial_calls_update_residuals_of_the_active_tokens_only(monkeypatch):
    dictate(monkeypatch, "dense", [1, 2], "reuse")
    net = DoublingNet(blocks=1, attention=1)
    run = Run(net)
    # sum 10; y = 2x + 10, residuals x + 10
    assert numbers(run.call(clip(1, 2, 3, 4), 1000)) == [12, 14, 16, 18]
    # keys and values: 1 and 4 are stale, 7 and 8 fresh: sum 20. Computed: 14 + 20 and 16 + 20.
    # Reused: 5 + 11 and 6 + 14
    assert numbers(run.call(clip(5, 7, 8, 6), 900)) == [16, 34, 36, 20]
    # residuals are 11, 27, 28, 14 now
    assert numbers(run.call(clip(0, 0, 0, 0), 800)) == [11, 27, 28, 14]
    assert net.calls == [4, 2]
    assert run.kinds == ["dense", "partial", "reuse"]


def test_every_block_has_keys_and_values_of_its_own(monkeypatch):
    dictate(monkeypatch, "dense", [0], [1])
    run = Run(DoublingNet(blocks=2, attention=1))
    # block 1: sum 3, (1, 2) -> (5, 7); block 2: sum 12, -> (22, 26)
    assert numbers(run.call(clip(1, 2), 1000)) == [22, 26]
    # row 0 is 3: block 1 sums 3 + 2 = 5, gives 11; block 2 sums 11 + 7 = 18, gives 40.
    # row 1 reuses 24
    assert numbers(run.call(clip(3, 10), 900)) == [40, 34]
    # row 1 is 4: block 1 sums 3 + 4 = 7, gives 15; block 2 sums 11 + 15 = 26, gives 56.
    # row 0 reuses 37
    assert numbers(run.call(clip(0, 4), 800)) == [37, 56]


def test_rows_bring_their_own_place_and_their_frames_timestep(monkeypatch):
    dictate(monkeypatch, "dense", [1, 4])
    net = DoublingNet(blocks=1, attention=1, timed=True, placed=True)
    run = Run(net)
    x = clip(0, 0, 0, 0, 0, 0, height=2)
    t = torch.tensor([[100.0, 200.0, 300.0]])
    # y = row + timestep of the frame
    assert numbers(run.call(x, t)) == [100, 101, 202, 203, 304, 305]
    # y = row + timestep for the active rows; the others keep theirs
    t = torch.tensor([[10.0, 20.0, 30.0]])
    assert numbers(run.call(x, t)) == [100, 11, 202, 203, 34, 305]


@pytest.mark.parametrize("old_modulation", [False, True])
def test_one_timestep_serves_all_rows(monkeypatch, old_modulation):
    dictate(monkeypatch, "dense", [2])
    net = DoublingNet(attention=1, blocks=1, timed=True, placed=True, old_modulation=old_modulation)
    run = Run(net)
    assert numbers(run.call(clip(0, 0, 0), 500)) == [500, 501, 502]
    assert numbers(run.call(clip(0, 0, 0), 400)) == [500, 501, 402]


def test_two_samples_keep_apart(monkeypatch):
    dictate(monkeypatch, "dense", [1])
    run = Run(DoublingNet(blocks=1, attention=1))
    x = torch.cat((clip(1, 2), clip(10, 20)))
    run.call(x, 1000)
    out = run.call(x, 900)
    # sums 3 and 30
    assert out[:, 0].reshape(2, -1).tolist() == [[5, 7], [50, 70]]


def test_branches_are_told_apart_by_their_key_not_by_their_place(monkeypatch):
    dictate(monkeypatch, "dense", "reuse", "reuse")
    run = Run(DoublingNet(blocks=2))
    run.call(torch.cat((clip(1, 2), clip(10, 20))), 1000, branches=("uncond", "cond"))
    # residuals: uncond 3 and 6, cond 30 and 60
    out = run.call(torch.cat((clip(0, 0), clip(0, 0))), 900, branches=("cond", "uncond"))
    assert out[:, 0].reshape(2, -1).tolist() == [[30, 60], [3, 6]]
    assert numbers(run.call(clip(0, 0), 800, branches=("uncond",))) == [3, 6]
    assert numbers(run.call(clip(0, 0), 800, branches=("cond",))) == [30, 60]
    assert run.decided == ["dense", "reuse", "reuse"]


def test_a_branch_that_joins_later_is_computed(monkeypatch):
    dictate(monkeypatch, "dense", "reuse", "reuse")
    net = DoublingNet(blocks=1)
    run = Run(net)
    run.call(clip(1, 2), 1000, branches=("cond",))
    run.call(clip(1, 2), 900, branches=("cond",))
    assert numbers(run.call(clip(5, 6), 900, branches=("new",))) == [10, 12]
    assert run.kinds == ["dense", "reuse", "dense"]
    assert "new branch" in run.trace.evaluations[1].calls[1].note
    assert numbers(run.call(clip(0, 0), 800, branches=("new",))) == [5, 6]


def test_the_callers_latent_is_left_alone(monkeypatch):
    dictate(monkeypatch, "dense", [0], "reuse")
    run = Run(DoublingNet(blocks=2, attention=1))
    x = clip(1, 2, 3)
    kept = x.clone()
    for t in (1000, 900, 800):
        out = run.call(x, t)
        assert torch.equal(x, kept)
        # what was handed out is not what is kept
        out.fill_(1e6)
    assert run.kinds == ["dense", "partial", "reuse"]
