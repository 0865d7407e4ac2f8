"""What the page shows in other languages; ComfyUI is not needed."""

import json
import re

import pytest
from motioncache_pack.tests.locales import run
from motioncache_pack.tests.support import fake_comfy

CHINESE = re.compile(r"[\u4e00-\u9fff]")
# the page's translator reads these as plurals, linked messages and places to fill in
SPECIAL = re.compile(r"[|@{}]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# what is called the same in Chinese
SAME = {"MotionCache", "Latent", "JSON"}


@pytest.fixture(scope="module", autouse=True)
def comfy():
    undo = fake_comfy.install()
    yield
    undo()


@pytest.fixture(scope="module")
def english():
    return run.definitions()


@pytest.fixture(scope="module")
def translations(root):
    files = sorted((root / "locales").glob("*/*"))
    assert {file.name for file in files} == {"nodeDefs.json"}
    return {file.parent.name: json.loads(file.read_text("utf-8")) for file in files}


def flat(translation, above=""):
    """Every text by its path."""
    found = {}
    for key, value in translation.items():
        path = f"{above}/{key}"
        found |= flat(value, path) if isinstance(value, dict) else {path: value}
    return found


def test_english_is_what_run_py_writes(english):
    written = run.ENGLISH.read_text("utf-8")
    assert written == run.as_json(english), "run `make locales` and commit the result"


def test_every_text_is_translated_and_none_is_left_over(english, translations):
    assert set(translations) == {"en", "zh"}
    wanted = list(flat(english))
    for language, translation in translations.items():
        found = flat(translation)
        assert [path for path in wanted if path not in found] == [], f"{language} lacks these"
        assert [path for path in found if path not in wanted] == [], f"{language} has no use for"
        assert all(isinstance(text, str) and text.strip() for text in found.values())


def test_no_text_holds_what_the_page_reads_as_syntax(translations):
    for language, translation in translations.items():
        found = {path: text for path, text in flat(translation).items() if SPECIAL.search(text)}
        assert not found, language


def test_chinese_is_chinese(translations):
    for path, text in flat(translations["zh"]).items():
        assert CHINESE.search(text) or text in SAME, path


def test_chinese_has_the_numbers_of_the_english(english, translations):
    """A limit or default that changes in a tooltip is noticed in its translation."""
    chinese = flat(translations["zh"])
    for path, text in flat(english).items():
        if not path.endswith("/name"):
            assert set(NUMBER.findall(text)) <= set(NUMBER.findall(chinese[path])), path


def test_chinese_help_gives_the_name_that_report_and_log_use(translations):
    for node, texts in translations["zh"].items():
        for name, said in texts["inputs"].items():
            assert said["tooltip"].startswith(f"{name}："), (node, name)
