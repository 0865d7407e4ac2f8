"""The README's numbers are those of the committed result files."""

import json
import re
import subprocess
import sys


def test_numbers_are_current(root):
    script = root / "tests" / "bench" / "readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_of_both_languages_lead_somewhere(root):
    for name in ("README.md", "README.zh.md"):
        text = (root / name).read_text("utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            file, _, heading = target.partition("#")
            assert (root / (file or name)).is_file(), (name, target)
            headings = (
                re.findall(r"^#+ (.+)$", (root / (file or name)).read_text("utf-8"), re.M)
                if heading
                else []
            )
            assert not heading or heading in [h.lower().replace(" ", "-") for h in headings]


def test_both_languages_name_the_same_workflows_and_settings(root):
    english, chinese = ((root / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
    shown = {file.stem for file in (root / "workflows").glob("*.json")}
    for text in (english, chinese):
        assert shown <= set(re.findall(r"`(\w+)`", text))
    # what the Chinese page names, the English one names too; the ticks of blocks are no pairs
    english = re.sub(r"```.*?```", "", english, flags=re.DOTALL)
    assert set(re.findall(r"`([^`\n]+)`", chinese)) <= set(re.findall(r"`([^`]+)`", english))


def test_both_commands_are_named(root):
    text = (root / "README.md").read_text("utf-8")
    assert "make demo" in text
    assert "make test" in text


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
    assert "**Block-causal diffusion forcing, the demo model**" in told
    assert "CPU time" not in told
    (tmp_path / "quality_confirmation_50_steps.json").write_text(
        json.dumps({**data, "seeds": 6, "steps": 50}), "utf-8"
    )
    brief = tables(tmp_path).partition("50 steps**")[2]
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
    tables = bench("readme_ablations").ablation_tables
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
