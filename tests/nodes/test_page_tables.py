"""What the page's scripts know of the pack is what the pack knows."""

import json
import pickle
import re

import pytest
from motioncache_pack.motioncache_core.common.phrases import as_data, lowered, phrase, together
from motioncache_pack.motioncache_core.common.reasons import REASONS, because, prefixed
from motioncache_pack.motioncache_core.report.node_text import expected
from motioncache_pack.motioncache_core.sampling.setting_effects import NEEDS
from motioncache_pack.motioncache_core.settings import PRESETS
from motioncache_pack.tests.support.chinese import PLACE, chinese, places, put, templates


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


SENTENCES = {**chinese("reasons"), **chinese("report")}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def said_by_the_pack():
    reasons = {part for t in REASONS.values() for part in (t.happened, t.action)}
    return reasons | set(templates())


def test_every_sentence_has_its_chinese_and_none_is_left_over():
    wanted = said_by_the_pack()
    words = {
        template for template in wanted if re.search(r"[A-Za-z]", re.sub(r"\{.*?\}", "", template))
    }
    assert words - set(SENTENCES) == set()
    assert set(SENTENCES) - wanted == set()


@pytest.mark.parametrize("name", ["reasons", "report", "page"])
def test_chinese_has_the_same_facts_and_is_chinese(name):
    for english, words in chinese(name).items():
        assert places(words) == places(english), english
        plain = PLACE.sub("", english).replace("MotionCache", "")
        assert CHINESE.search(words) or not re.search(r"\w", plain), english


def test_what_the_page_says_itself_is_in_the_table(script):
    page = chinese("page")
    for name in ("patcher", "scrubber", "settings"):
        for words in re.findall(r'say\("([^"]+)"', script(name)):
            assert words.replace("\\n", "\n") in {**page, **SENTENCES}, words


def test_a_sentence_is_put_together_from_its_facts():
    why = because("tokens_lost", why=phrase("{n} steps", n=3), action=lowered("Use fewer"))
    told = together("\n", [phrase("{share:.0%} reused", share=0.58), prefixed("On gpu: ", why)])
    english = put(as_data(told), {})
    assert english == told == json.loads(json.dumps(told))
    said = put(as_data(told), {**SENTENCES, "{share:.0%} reused": "复用 {share}"})
    assert said.startswith("复用 58%\nOn gpu: 此后不再区分单个 token") and "3 步。" in said
    assert (pickle.loads(pickle.dumps(told)).data, lowered(why)[0]) == (told.data, "s")


@pytest.mark.parametrize("preset", ["balanced", "motion", "paper", None])
def test_lines_on_the_node_are_all_chinese_in_a_chinese_page(preset):
    chosen = PRESETS[preset or "balanced"]
    said = put(as_data(expected(chosen, preset)), SENTENCES)
    assert CHINESE.search(said) and not re.search(r"[a-z]{2,}", said.replace("token", ""))
