"""The committed comparison of caches is whole, and MotionCache withstands every case in it."""

import json

import pytest


@pytest.fixture(scope="module")
def results(root):
    file = root / "tests" / "bench" / "results" / "side_by_side.json"
    return json.loads(file.read_text("utf-8"))


def test_every_case_was_measured_for_every_cache(bench, results):
    assert list(results["cells"]) == list(bench("side_by_side.run").CASES)
    names = ["no cache", "EasyCache", "LazyCache", "MotionCache"]
    assert list(results["caches"]) == names
    assert all(list(cells) == names for cells in results["cells"].values())
    assert set(results["commits"]) == set(results["cells"])


def test_motioncache_withstands_every_case(results):
    verdicts = {case: cells["MotionCache"]["verdict"] for case, cells in results["cells"].items()}
    assert {
        case for case, verdict in verdicts.items() if verdict in ("crashes", "differs")
    } == set()
    assert verdicts["plain run"] == "passes"


def test_an_exception_is_the_cells_not_the_benchs(bench):
    def broken(given, subject):
        raise RuntimeError("first line\nsecond line")

    cell = bench("side_by_side.run").measured(None, None, broken)
    assert (cell.verdict, cell.said) == ("crashes", "RuntimeError: first line")


def test_the_table_shows_what_fails(bench, results):
    table = bench("readme").side_by_side_table(results)
    for case, cells in results["cells"].items():
        (row,) = [r for r in table.splitlines() if r.startswith(f"| {case} |")]
        found = [cells[n]["verdict"] for n in ("EasyCache", "LazyCache", "MotionCache")]
        assert [cell.strip(" *").split(":")[0].strip("*") for cell in row.split("|")[2:5]] == found
    assert "no cache" not in table.splitlines()[0]
