"""The help page of every node: there, with its picture, and speaking of its inputs."""

import importlib
import re

import pytest
from motioncache_pack.tests.nodes.test_schema import CONTRACT
from PIL import Image

every_node = pytest.mark.parametrize("node_id", CONTRACT)
# plain sockets, and what a page leaves to its tooltip
SOCKETS = {"model", "samples", "trace", "images"}
ADVANCED_BY_TOOLTIP = "MotionCacheSettings"
LIMIT = 80_000


@pytest.fixture
def page(root, node_id):
    return (root / "nodes" / "web" / "docs" / f"{node_id}.md").read_text("utf-8")


@every_node
def test_a_page_begins_with_its_node_and_shows_its_picture(root, pack, page, node_id):
    schema = pack.nodes[node_id].define_schema()
    assert page.startswith(f"# {schema.display_name}\n\n")
    # the page joins a relative address to the folder of the help files
    ((words, picture),) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
    assert words and picture == f"{node_id}.jpg"
    file = root / "nodes" / "web" / "docs" / picture
    assert file.stat().st_size < LIMIT
    with Image.open(file) as found:
        assert found.format == "JPEG" and found.width == 640


@every_node
def test_a_page_speaks_of_every_widget(pack, page, node_id):
    inputs = pack.nodes[node_id].define_schema().inputs
    for item in inputs:
        told = item.id in SOCKETS or (item.advanced and node_id == ADVANCED_BY_TOOLTIP)
        assert told or f"**{item.id}**" in page, item.id


def test_no_page_and_no_picture_is_left_over(root, pack):
    pictures = importlib.import_module("motioncache_pack.tests.pictures.help").PICTURES
    folder = root / "nodes" / "web" / "docs"
    wanted = {f"{node_id}.{ending}" for node_id in CONTRACT for ending in ("md", "jpg")}
    assert {file.name for file in folder.iterdir()} == wanted
    assert set(pictures) == set(CONTRACT)


@pytest.mark.parametrize("node_id", CONTRACT)
def test_aliases_say_more_than_the_name(pack, node_id):
    schema = pack.nodes[node_id].define_schema()
    assert schema.search_aliases and schema.display_name not in schema.search_aliases
    assert all(alias == alias.strip().lower() for alias in schema.search_aliases)
    assert len(set(schema.search_aliases)) == len(schema.search_aliases)
