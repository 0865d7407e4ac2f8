"""What the README and Measurements say is so: numbers, links, commands, names."""

import json
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

ENGLISH, CHINESE, MEASUREMENTS = "README.md", "README.zh.md", "tests/bench/README.md"
PAGES = (ENGLISH, CHINESE, MEASUREMENTS)
MAX_LINES = 249
UNMEASURED = {
    ENGLISH: "**Nothing here has been measured on a GPU or on real Wan weights yet.**",
    CHINESE: "**目前还没有在 GPU 上、也没有用真正的 Wan 权重测量过任何数据。**",
    MEASUREMENTS: "**None of this is from a GPU or from a real Wan.**",
}

every_page = pytest.mark.parametrize("name", PAGES)


@pytest.fixture
def read(root):
    return lambda name: (root / name).read_text("utf-8")


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def ticked(text):
    """What stands between ticks, also over the end of a line."""
    return {" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(text))}


def anchors(text):
    """The names that headings are linked by: small letters, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_numbers_are_current(root):
    script = root / "tests" / "bench" / "readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_block_is_made_anew_and_is_missed(bench, read):
    readme = bench("readme")
    for page, blocks in readme.PAGES.items():
        text = read(page)
        changed = text
        for name in blocks:
            changed = changed.replace(f"<!-- {name} -->\n", f"<!-- {name} -->\n1")
        assert changed.count("\n1") == text.count("\n1") + len(blocks)
        assert readme.filled(page, changed) == text
        with pytest.raises(SystemExit, match=f"{page} has no block <!-- {name} -->"):
            readme.filled(page, text.replace(f"<!-- /{name} -->", ""))


def test_figures_in_sentences_are_those_of_the_tables(root, read):
    """Choosing tokens by motion over its rivals, in both ways of sampling, on both models."""
    found = {}
    for name in ("quality", "quality_confirmation"):
        data = json.loads((root / f"tests/bench/results/{name}.json").read_text("utf-8"))
        for mode in data["modes"].values():
            for d in mode["differences"]:
                if d["policy"] == "motion (ours)":
                    for share, at in d["at"]["compute_share"].items():
                        found.setdefault((d["over"], share), []).append(at["psnr"])

    def spread(rivals, shares=("0.30", "0.40", "0.50")):
        means = [
            abs(figure["mean"])
            for rival in rivals
            for share in shares
            for figure in found.get((rival, share), ())
            if figure
        ]
        return f"{min(means):.1f}", f"{max(means):.1f}"

    whole = ("step + forecast", "chunk + forecast")
    for rivals, shares in (
        (("random (counts of ours)",), ("0.30", "0.40", "0.50")),
        (("step", "chunk"), ("0.30", "0.40", "0.50")),
        (("EasyCache", "LazyCache"), ("0.30", "0.40", "0.50")),
        (("motion (paper)",), ("0.30", "0.40", "0.50")),
        (whole, ("0.30",)),
        (whole, ("0.50",)),
    ):
        low, high = spread(rivals, shares)
        assert f"{low} to {high} dB" in " ".join(read(ENGLISH).split()), rivals
        assert f"{low} 到 {high} dB" in read(CHINESE), rivals
    answers = json.loads((root / "tests/bench/results/token_answers.json").read_text("utf-8"))
    behind = [
        -row["residual rows"]["over"]["whole answers"]["mean"]
        for works in answers["models"].values()
        for row in works.values()
    ]
    told = f"{min(behind):.1f}", f"{max(behind):.1f}"
    assert "`motion` is {} to {} dB behind `fast`".format(*told) in " ".join(read(ENGLISH).split())
    assert "`motion` 比它们低 {} 到 {} dB".format(*told) in read(CHINESE)
    assert all(figure["low"] > 0 for rival in whole for figure in found[rival, "0.30"])
    assert all(figure["low"] < 0 < figure["high"] for r in whole for figure in found[r, "0.40"])


@every_page
def test_what_was_not_measured_is_said_above_the_figures(root, read, name):
    if not any((root / "tests/bench/results").glob("*_*gpu*.json")):
        before, told, _ = read(name).partition(UNMEASURED[name])
        assert told and not re.search(r"^\||^<!--| dB", before, re.MULTILINE)


@every_page
def test_links_lead_somewhere(root, read, name):
    page = root / name
    links = re.findall(r"\]\(([^)]+)\)", prose(read(name)))
    assert links
    for link in links:
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(root) and target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


@every_page
def test_tables_have_a_cell_for_every_column(read, name):
    for table in re.findall(r"(?:^\|.*\n)+", read(name), re.MULTILINE):
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(?: ?---+ ?\|)+", rule), head
        assert {line.count("|") for line in (head, rule, *rows)} == {rule.count("|")}, table
        assert rows and all(line.endswith("|") for line in rows), head


@every_page
def test_commands_can_be_given(root, read, name):
    text, makefile = read(name), (root / "Makefile").read_text("utf-8")
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    code = ticked(text).union(re.findall(r"```\n(.*?)\n```", text, re.DOTALL))
    assert {word for line in code for word in re.findall(r"^make ([\w-]+)", line)} <= targets
    for line in code:
        for path in re.findall(r"(?<![\w<./-])[\w.-]+/[\w./-]+\.(?:py|json|md)\b", line):
            if not path.startswith(("out/", "custom_nodes/")):
                assert (root / path).is_file(), line
        for file in re.findall(r"^test_\w+\.py$", line):
            assert list((root / "tests").rglob(file)), line
        for script, options in re.findall(r"tests/bench/(\S+)\.py((?: .+)?)", line):
            folder = root / "tests" / "bench" / script.rpartition("/")[0]
            known = "".join(file.read_text("utf-8") for file in folder.glob("*.py"))
            for option in re.findall(r"--[\w-]+", options):
                assert f'"{option}"' in known, (line, option)


def test_both_commands_are_named(read):
    for name in (ENGLISH, CHINESE):
        assert {"make demo", "make test"} <= ticked(read(name))


@pytest.mark.parametrize("name", [ENGLISH, CHINESE])
def test_a_page_is_short_and_names_every_workflow(root, read, name):
    text = read(name)
    assert len(text.splitlines()) <= MAX_LINES
    table = re.search(r"^\| (?:workflow|工作流) .*\n\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    named = [n for row in table.splitlines() for n in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(file.stem for file in (root / "workflows").glob("*.json"))


def test_the_chinese_page_names_what_the_english_one_does(read):
    assert ticked(read(CHINESE)) <= ticked(read(ENGLISH))
    # of links only those that are about the pages themselves differ
    links = [set(re.findall(r"\]\((tests/[^)]+)\)", read(n))) for n in (CHINESE, ENGLISH)]
    assert links[0] <= links[1]


def test_quality_that_was_not_measured_is_said_so(bench, tmp_path):
    tables = bench("readme_quality").quality_tables
    assert "The confirmation model: not measured yet." in tables(tmp_path)
    assert "The confirmation model, 50 steps: not measured yet." in tables(tmp_path)
    shares = {s: {"psnr": {"mean": 40.25, "low": None, "high": None, "clips": 1}} for s in
              ("0.30", "0.40", "0.50")}  # fmt: skip
    at = {"at": {"compute_share": shares}}
    figures = {"clips": 1, "policies": {"step": at},
               "differences": [{"policy": "a", "over": "b", **at}]}  # fmt: skip
    data = {"modes": {"forcing": figures}, "seeds": 1, "steps": 24,
            "environment": {"device": "cpu"}}  # fmt: skip
    (tmp_path / "quality.json").write_text(json.dumps(data), "utf-8")
    told = tables(tmp_path)
    assert "### Block-causal diffusion forcing, model tracks\n" in told
    assert "CPU time" not in told
    (tmp_path / "quality_confirmation_50_steps.json").write_text(
        json.dumps({**data, "seeds": 6, "steps": 50}), "utf-8"
    )
    brief = tables(tmp_path).partition("50 steps\n")[2]
    assert "| a over b | +40.2 |" in brief and "| step | 40.2 |" not in brief
    assert "6 clips of the confirmation model in each mode, 50 steps, cpu." in brief
    assert (
        "| step | 40.2 | 40.2 | 40.2 |" in told and "| a over b | +40.2 | +40.2 | +40.2 |" in told
    )


def test_against_the_same_forecast_the_table_tells_equal_time_too(bench, tmp_path):
    def shares(**figures):
        told = {k: {"mean": v, "low": None, "high": None, "clips": 1} for k, v in figures.items()}
        return dict.fromkeys(("0.30", "0.40", "0.50"), told)

    at = {
        "compute_share": shares(psnr=2.0, psnr_moving=3.0),
        "cpu_share": shares(psnr=-4.0),
    }
    figures = {"clips": 1, "policies": {},
               "differences": [{"policy": "a", "over": "b + forecast", "at": at}]}  # fmt: skip
    data = {"modes": {"ordinary": figures}, "seeds": 1, "steps": 24,
            "environment": {"device": "cpu"}}  # fmt: skip
    (tmp_path / "quality.json").write_text(json.dumps(data), "utf-8")
    told = bench("readme_quality").quality_tables(tmp_path)
    for row, value in (("", "+2.0"), (", where it moves", "+3.0"), (", at equal CPU time", "-4.0")):
        assert f"| a over b + forecast{row} | {value} | {value} | {value} |" in told


def test_ablations_that_were_not_measured_are_said_so(bench, tmp_path):
    tables = bench("readme_quality").ablation_tables
    told = tables(tmp_path)
    assert "settings: not measured yet." in told and "preset `paper`: not measured yet." in told

    def figures(psnr):
        found = {"psnr": {"mean": psnr, "low": psnr - 1, "high": psnr + 1, "clips": 6}}
        at = {"compute_share": {"0.30": found, "0.40": found, "0.50": found}}
        changed = {"policy": "kv_forecast 0.0", "over": "base", "at": at}
        return {"clips": 6, "policies": {}, "differences": [changed]}

    brief = bench("quality.ablations").brief
    data = {"modes": {"ordinary": brief(figures(-2.5)), "forcing": brief(figures(0.25))},
            "seeds": 6, "steps": 24, "model": "demo"}  # fmt: skip
    (tmp_path / "ablations.json").write_text(json.dumps(data), "utf-8")
    told = tables(tmp_path)
    assert "| ordinary, 0.30 | ordinary, 0.40 | forcing, 0.30 | forcing, 0.40 |" in told
    ordinary, forcing = (" | ".join([cell] * 2) for cell in
                         ("-2.5 [-3.5, -1.5]", "+0.2 [-0.8, +1.2]"))  # fmt: skip
    assert f"| kv_forecast 0.0 | {ordinary} | {forcing} |" in told
    assert "6 clips of model demo in each mode, 24 steps." in told
