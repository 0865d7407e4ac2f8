"""The benches of kernels and engine run, and the README's GPU tables are made of what they write.

The code that a GPU session runs is tried here at tiny sizes, so that no session is lost to a slip.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.tests.kernels.cases import CASES, Sizes


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    def run(name, *args):
        out = tmp_path_factory.mktemp("bench") / f"{name}.json"
        command = [sys.executable, str(root / "tests" / "bench" / f"{name}.py"), *args]
        done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(out.read_text("utf-8"))

    return run


@pytest.fixture(scope="module")
def engine(run):
    return run("engine", "--smoke")


@pytest.fixture(scope="module")
def timed(run):
    return run("kernels", "--op", "compact_rows", "reuse_residual", "--repeats", "3")


def on_gpu(data):
    """A result as a GPU would have written it."""
    data = copy.deepcopy(data)
    data["environment"] |= {"device": "Test GPU", "driver": "1", "triton": "2", "commit": "abc"}
    for row in data["rows"]:
        row["backend"] = "triton"
    return data


@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize("lists", [1, 2])
def test_a_case_can_be_run_and_moves_what_it_says(label, lists):
    sizes = Sizes("cpu", torch.bfloat16, 2, 3, 21, 128, 17, 64, lists=lists, padding=2)
    case = CASES[label](sizes)
    given = case.make()
    out = getattr(kernels, case.op)(*given, **case.named)
    seen = [*given, *(out if isinstance(out, tuple) else (out,))]
    # what is written in place counts twice, as it is read as well
    size = sum(t.nbytes for t in seen if isinstance(t, torch.Tensor))
    assert 0 < case.moved <= 2 * size
    assert label.startswith(case.op)


def test_the_engine_measures_every_kind(engine, bench):
    (row,) = engine["rows"]
    kinds = bench("engine").SHARES
    assert set(row["ideal_share"]) == set(row["ops_share"]) == set(row["computed"]) == set(kinds)
    assert set(row["share_of_unpatched"]) == {"unpatched", "without blocks", *kinds}
    for kind, share in kinds.items():
        # rounded up to a multiple of rows
        assert share <= row["computed"][kind] < share + 0.06, kind
        ideal = row["ideal_share"]
        assert ideal["reuse"] <= ideal[kind] <= ideal["dense"] == 1
    ops = {"gather_rows", "scatter_residual", "correct_rows"}
    assert ops <= set(row["ops_share"]["active 50%"])
    assert "reuse_residual" in row["ops_share"]["reuse"]
    assert engine["environment"]["device"] == "cpu"


def test_what_blocks_do_for_the_text_has_to_be_done(bench):
    seconds = {
        "unpatched": [1.0], "without blocks": [0.2], "one row": [0.3], "half": [0.7], "reuse": [0.2]
    }  # fmt: skip
    row = bench("engine").shares(seconds, {"half": 0.5, "reuse": 0.0})
    assert row["ideal_share"] == {"half": 0.65, "reuse": 0.2}
    assert row["above_ideal"] == {"half": 0.05, "reuse": 0.0}


SWAPPED = {
    "scatter_kv": lambda kept: lambda k, v, rows, *more: kept(v, k, rows, *more),
    "scatter_residual": lambda kept: lambda x, new, at, *more: kept(x, new, at.flip(-1), *more),
}


@pytest.mark.parametrize(("op", "kv_forecast"), [("scatter_kv", 0.0), ("scatter_residual", 0.5)])
def test_the_gate_sees_a_wrong_partial_path(bench, monkeypatch, op, kv_forecast):
    model = bench("engine_model")
    geometry = replace(model.SMOKE["smoke"], kv_forecast=kv_forecast)
    with torch.inference_mode():
        assert model.gate(geometry, "cpu") is None
        monkeypatch.setattr(model.kernels, op, SWAPPED[op](getattr(model.kernels, op)))
        assert "all rows active" in model.gate(geometry, "cpu")


def test_all_sizes_of_wan_fit_a_device_of_139_gib(bench):
    for geometry in bench("engine_model").WAN.values():
        assert geometry.needed_bytes() < 139 * 2**30
        assert geometry.tokens in (32760, 75600)
        heads = geometry.dim // 128
        assert heads in (12, 40) and geometry.layers in (30, 40)


def test_bytes_of_a_network_are_counted(bench):
    geometry = bench("engine_model").SMOKE["smoke"]
    weights = sum(
        p.numel() for n, p in geometry.network("cpu").named_parameters() if n.startswith("blocks")
    )
    told = geometry.layers * (8 * geometry.dim**2 + 2 * geometry.dim * geometry.ffn_dim)
    assert told <= weights < 1.1 * told


def test_the_tables_of_a_gpu(engine, timed, bench):
    readme = bench("readme")
    table = readme.gpu_kernel_table(on_gpu(timed))
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["compact_rows", "reuse_residual"]
    assert rows[0].endswith("* |") and "*" not in rows[1]
    table = readme.gpu_engine_table(on_gpu(engine))
    (row,) = [line for line in table.splitlines() if line.startswith("| smoke")]
    assert row.count("%") == 15
    assert "Without kv_forecast" not in table
    plain = on_gpu(engine)
    plain["rows"][0]["model"]["kv_forecast"] = 0.0
    assert "no memory: smoke." in readme.gpu_engine_table(plain)
    for text in (table, readme.gpu_kernel_table(on_gpu(timed))):
        assert "Test GPU, driver 1" in text and "commit abc" in text


def test_a_red_bench_makes_no_table(timed, bench):
    with pytest.raises(SystemExit, match="was red"):
        bench("readme").gpu_kernel_table(on_gpu(timed) | {"red": ["gather_rows on triton: wrong"]})


def test_a_cpu_makes_no_gpu_table(timed, bench, tmp_path, monkeypatch):
    readme = bench("readme")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.gpu_tables("kernels", readme.gpu_kernel_table) == "Not measured on a GPU yet."
    (tmp_path / "kernels_x.json").write_text(json.dumps(timed), "utf-8")
    with pytest.raises(SystemExit, match="measured on a CPU"):
        readme.gpu_tables("kernels", readme.gpu_kernel_table)


def test_parts_of_a_bench_share_a_file_of_one_machine(timed, bench, tmp_path):
    path, here = tmp_path / "kernels.json", timed["environment"]
    path.write_text(json.dumps(timed), "utf-8")
    common = bench("common")
    assert common.rows_of_others(path, here, ["14b-480p"]) == timed["rows"]
    assert common.rows_of_others(path, here, ["small"]) == []
    with pytest.raises(SystemExit, match="of device cpu"):
        common.rows_of_others(path, here | {"device": "Test GPU"}, [])


def test_a_disagreement_is_seen(bench):
    module = bench("kernels")
    x = torch.randn(64)
    assert module.disagreement((x,), (x.clone(),)) is None
    assert "RMS" in module.disagreement((x,), (x + 1e-3,))
    assert "RMS" in module.disagreement((x,), (x * float("nan"),))
    rows = torch.arange(8, dtype=torch.int32)
    assert "8 numbers differ" in module.disagreement((rows,), (rows + 1,))
    codes = x.to(torch.float8_e4m3fn)
    assert module.disagreement((codes,), (codes,)) is None
    assert "differ" in module.disagreement((codes,), ((-x).to(torch.float8_e4m3fn),))
