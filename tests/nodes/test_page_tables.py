"""What the page's scripts know of the pack is what the pack knows."""

import json
import re

import pytest
from motioncache_pack.motioncache_core.report.report_text import gain
from motioncache_pack.motioncache_core.sampling.setting_effects import NEEDS
from motioncache_pack.motioncache_core.settings import PRESETS


@pytest.fixture
def script(root):
    return lambda name: (root / "nodes/web/js" / f"{name}.js").read_text("utf-8")


def table(text, name):
    (found,) = re.findall(rf"^const {name} = (\{{.*?\}});$", text, re.MULTILINE | re.DOTALL)
    return json.loads(re.sub(r"(\w+):", r'"\1":', found) if '"' not in found else found)


def test_the_shares_of_the_presets(script):
    shares = {name: p.compute_budget for name, p in PRESETS.items() if p.compute_budget}
    steps = {n: s for n, s in shares.items() if PRESETS[n].traits.answers}
    tokens = {n: s for n, s in shares.items() if n not in steps}
    assert table(script("patcher"), "STEPS") == steps
    assert table(script("patcher"), "TOKENS") == tokens


def test_what_settings_need_to_have_an_effect(script):
    assert table(script("settings"), "NEEDS") == NEEDS


def test_every_line_on_the_node_is_known_to_the_translator(script):
    """A pattern of `words.js` for each kind of line that the server sends."""
    patterns = re.findall(r"^  \[/(\^.*\$)/,", script("words"), re.MULTILINE)
    lines = [line for p in ("balanced", "motion", "paper") for line in gain(PRESETS[p]).split("\n")]
    lines += [
        "step 7 of 24 · 43\u00a0% reused",
        "evaluation 3 of 48 · 0\u00a0% reused",
        "58\u00a0% reused · about 2.3x faster",
        "58\u00a0% reused",
        "9.1 s in the sampler, nothing reused",
        "settings are connected,",
        "preset is not used",
        "keys and values 13.4\u00a0GB, in the host's memory",
    ]
    assert [line for line in lines if not any(re.match(p, line) for p in patterns)] == []
