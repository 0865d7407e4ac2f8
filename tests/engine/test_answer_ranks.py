"""Whole evaluations foretold by several processes that share a run: what is computed follows from
the schedule alone, so all of them meet in the same calls of the network. `rank.py` is one."""

import json
import subprocess
import sys

import pytest
import torch
from motioncache_pack.motioncache_core.settings import PRESETS
from motioncache_pack.tests.engine.rank import ALONE, MEMORY, STEPS, WAYS, sampled

RANKS = 2

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


@pytest.fixture(scope="module")
def alone():
    with torch.no_grad():
        return sampled(ALONE)


@pytest.fixture(scope="module")
def ranks(root, tmp_path_factory):
    """What each rank found, by way of sharing."""
    script = root / "tests" / "engine" / "rank.py"
    place = tmp_path_factory.mktemp("ranks") / "meeting"
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(RANKS), str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        told = [rank.communicate(timeout=120) for rank in started]
    finally:
        for rank in started:
            rank.kill()
    for rank, (_, errors) in zip(started, told, strict=True):
        assert rank.returncode == 0, errors
    return [json.loads(said.splitlines()[-1]) for said, _ in told]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_meet_in_every_call(ranks, alone, way):
    computed = round(PRESETS["balanced"].compute_budget * STEPS)
    assert alone["marks"].count("D") == alone["calls"] == computed
    found = [rank[way] for rank in ranks]
    for rank in found:
        assert rank["everyone"] == [[alone["marks"], computed]] * RANKS
        assert (rank["marks"], rank["calls"]) == (alone["marks"], computed)
    # the second rank alone
    short = ["out_of_memory_answers" in rank["remarks"] for rank in found]
    assert short == [False, way == MEMORY]
    latents = [torch.tensor(rank["latents"]) for rank in found]
    assert torch.equal(*latents)
    wanted = torch.tensor(alone["latents"])
    assert (latents[0] - wanted).abs().max() < 1e-4 * wanted.abs().max()
