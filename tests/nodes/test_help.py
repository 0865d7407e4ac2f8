"""The help page of every node: there, with its picture, and speaking of its inputs."""

import importlib
import re

import pytest
from motioncache_pack.motioncache_core.sampling.run_settings import FEW_STEPS
from motioncache_pack.motioncache_core.settings import PRESETS
from motioncache_pack.tests.nodes.contract import CONTRACT
from PIL import Image

# plain sockets, and what a page leaves to its tooltip
SOCKETS = {"model", "samples", "trace", "images"}
ADVANCED_BY_TOOLTIP = "MotionCacheSettings"
LIMIT = 80_000
EXPECT = "WhatToExpect.md"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture
def folder(root):
    return root / "nodes" / "web" / "docs"


@pytest.fixture
def pages(pack, folder):
    """Schema and text of every node's page."""
    return [
        (pack.nodes[node_id].define_schema(), (folder / f"{node_id}.md").read_text("utf-8"))
        for node_id in CONTRACT
    ]


def test_a_page_begins_with_its_node_and_shows_its_picture(pages, folder):
    for schema, page in pages:
        assert page.startswith(f"# {schema.display_name}\n\n")
        # the page joins a relative address to the folder of the help files
        ((words, picture),) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
        assert words and picture == f"{schema.node_id}.jpg"
        file = folder / picture
        assert file.stat().st_size < LIMIT, picture
        with Image.open(file) as found:
            assert found.format == "JPEG" and found.width == 640, picture


def test_a_page_speaks_of_every_widget(pages):
    untold = [
        (schema.node_id, item.id)
        for schema, page in pages
        for item in schema.inputs
        if item.id not in SOCKETS
        and not (item.advanced and schema.node_id == ADVANCED_BY_TOOLTIP)
        and f"**{item.display_name or item.id}**" not in page
    ]
    assert untold == []


def test_no_page_and_no_picture_is_left_over(folder):
    pictures = importlib.import_module("motioncache_pack.tests.pictures.help").PICTURES
    wanted = {f"{node_id}.{ending}" for node_id in CONTRACT for ending in ("md", "jpg")}
    # a page in another language is in a folder of its node's name, where the host looks first
    assert {file.name for file in folder.iterdir() if file.is_file()} == {*wanted, EXPECT}
    folders = {file.name: {page.name for page in file.iterdir()} for file in folder.iterdir()
               if file.is_dir()}  # fmt: skip
    assert folders == {name: {"zh.md"} for name in (*CONTRACT, "WhatToExpect")}
    assert set(pictures) == set(CONTRACT)


def test_aliases_say_more_than_the_name(pages):
    for schema, _ in pages:
        aliases = schema.search_aliases
        assert aliases and schema.display_name not in aliases, schema.node_id
        assert all(alias == alias.strip().lower() for alias in aliases), schema.node_id
        assert len(set(aliases)) == len(aliases), schema.node_id


def test_every_page_is_there_in_chinese(pages, folder):
    for schema, page in pages:
        chinese = (folder / schema.node_id / "zh.md").read_text("utf-8")
        assert len(CHINESE.findall(chinese)) > 40, schema.node_id
        # the picture and the names of the inputs are the same
        assert f"]({schema.node_id}.jpg)" in chinese
        named = {i.id for i in schema.inputs if f"**{i.id}**" in page}
        assert {i for i in named if f"**{i}**" not in chinese} == set(), schema.node_id


def test_what_to_expect_has_the_same_numbers_in_chinese(folder):
    english, chinese = (
        (folder / page).read_text("utf-8") for page in (EXPECT, "WhatToExpect/zh.md")
    )
    assert sorted(NUMBER.findall(english)) == sorted(NUMBER.findall(chinese))
    assert english.count("\n## ") == chinese.count("\n## ")


def test_what_to_expect_has_the_presets_own_numbers(folder):
    page = (folder / EXPECT).read_text("utf-8")
    for name in ("quality", "balanced", "fast"):
        budget = PRESETS[name].compute_budget
        assert f"`{name}`\n{budget:.0%}" in page or f"`{name}` {budget:.0%}" in page
        assert f"{1 / budget:.1f}x".replace(".0x", "x") in page
    assert f"- {FEW_STEPS} steps or fewer" in page and "WhatToExpect.md" in (
        folder / "MotionCachePatcher.md"
    ).read_text("utf-8")
