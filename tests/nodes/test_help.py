"""The help page of every node: there, with its picture, and speaking of its inputs."""

import importlib
import re

import pytest
from motioncache_pack.tests.nodes.contract import CONTRACT
from PIL import Image

# plain sockets, and what a page leaves to its tooltip
SOCKETS = {"model", "samples", "trace", "images"}
ADVANCED_BY_TOOLTIP = "MotionCacheSettings"
LIMIT = 80_000


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
        and f"**{item.id}**" not in page
    ]
    assert untold == []


def test_no_page_and_no_picture_is_left_over(folder):
    pictures = importlib.import_module("motioncache_pack.tests.pictures.help").PICTURES
    wanted = {f"{node_id}.{ending}" for node_id in CONTRACT for ending in ("md", "jpg")}
    assert {file.name for file in folder.iterdir()} == wanted
    assert set(pictures) == set(CONTRACT)


def test_aliases_say_more_than_the_name(pages):
    for schema, _ in pages:
        aliases = schema.search_aliases
        assert aliases and schema.display_name not in aliases, schema.node_id
        assert all(alias == alias.strip().lower() for alias in aliases), schema.node_id
        assert len(set(aliases)) == len(aliases), schema.node_id
