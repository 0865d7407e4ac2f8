"""The sweep over the host's own nodes: which ones, with what, and what is told of them."""

import copy

import pytest

INFOS = {
    "Patch": {
        "input": {"required": {"model": ("MODEL",), "scale": ("FLOAT", {"default": 0.5})}},
        "output": ["MODEL"],
    },
    "Merge": {
        "input": {"required": {"a": ("MODEL", {}), "b": ("MODEL", {}), "how": (["x", "y"],)}},
        "output": ["MODEL"],
    },
    "Late": {"input": {"optional": {"model": ("MODEL",)}}, "output": ["MODEL", "INT"]},
    "Loader": {"input": {"required": {"name": (["file"],)}}, "output": ["MODEL"]},
    "Sampler": {"input": {"required": {"model": ("MODEL",)}}, "output": ["LATENT"]},
    "Second": {"input": {"required": {"model": ("MODEL",)}}, "output": ["CLIP", "MODEL"]},
}
PLAIN = {"quality": 0.01, "motion": 0.02}


@pytest.fixture
def sweep(bench):
    return bench("host_nodes")


@pytest.fixture
def table(bench):
    return bench("host_nodes_table")


def test_nodes_that_take_a_model_and_give_one_are_found(sweep):
    assert sweep.patching(INFOS) == ["Late", "Merge", "Patch"]


def test_arguments_are_defaults_choices_and_what_can_be_connected(sweep):
    sockets = {"MODEL": "another"}
    assert sweep.arguments_of("Patch", INFOS["Patch"], sockets) == (
        {"model": None, "scale": 0.5},
        None,
    )
    found = sweep.arguments_of("Merge", INFOS["Merge"], sockets)
    assert found == ({"a": None, "b": "another", "how": "x"}, None)
    needs = {"model": ("MODEL",), "vae": ("VAE",)}
    assert sweep.arguments_of("X", {"input": {"required": needs}}, sockets)[1] == "VAE"
    empty = {"model": ("MODEL",), "lora": ([], {})}
    assert sweep.arguments_of("X", {"input": {"required": empty}}, sockets)[1] == "a file"
    inner = {"required": {"tau": ("FLOAT", {"default": 1.5})}}
    nested = ("COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "p", "inputs": inner}]})
    found = sweep.arguments_of("X", {"input": {"required": {"how": nested}}}, sockets)
    assert found == ({"how": {"how": "p", "tau": 1.5}}, None)
    modern = {"model": ("MODEL",), "how": ("COMBO", {"options": ["p", "q"], "default": "q"})}
    assert sweep.arguments_of("X", {"input": {"required": modern}}, sockets)[0]["how"] == "q"


def test_a_node_is_told_what_it_needs_to_do_anything(sweep):
    info = {"input": {"required": {"model": ("MODEL",), "multiplier": ("FLOAT", {"default": 0.7})}}}
    assert sweep.arguments_of("RescaleCFG", info, {})[0]["multiplier"] == 1.0


def test_a_merge_takes_half_of_each_model(sweep):
    inputs = {"model1": ("MODEL",), "blocks.0.": ("FLOAT", {"default": 1.0})}
    info = {"input": {"required": inputs}}
    assert sweep.arguments_of("ModelMergeAny", info, {})[0]["blocks.0."] == 0.5


def measured(effect, **cells):
    presets = {p: {"before": {"effect": effect}, "behind": {"effect": effect}} for p in PLAIN}
    node = {"effect": effect, "off": {"before": True, "behind": True}, "presets": presets}
    for preset, cell in cells.items():
        node["presets"][preset] = copy.deepcopy(cell)
    return node


def test_an_effect_stays_within_room_and_the_error_of_a_plain_run(table):
    assert table.kept(measured(0.4), PLAIN)
    near = {"before": {"effect": 0.31}, "behind": {"effect": 0.5}}
    assert table.kept(measured(0.4, quality=near), PLAIN)
    far = {"before": {"effect": 0.4}, "behind": {"effect": 0.6}}
    assert not table.kept(measured(0.4, quality=far), PLAIN)
    assert not table.kept(measured(0.4, motion={"before": {"raised": "ValueError: x"}}), PLAIN)
    off = measured(0.4)
    off["off"]["behind"] = False
    assert not table.kept(off, PLAIN)


def test_the_page_tells_of_every_node(table):
    conflict = {p: {"raised": "ConflictError: two caches"} for p in ("before", "behind")}
    lost = {"before": {"effect": 0.4}, "behind": {"raised": "RuntimeError: shapes"}}
    nodes = {
        "Good": measured(0.4),
        "Nothing": measured(0.0),
        "A": measured(0.2),
        "B": measured(0.2),
        **{f"M{i}": measured(0.7) for i in range(5)},
        "Lost": measured(0.4, motion=lost),
        "Cache": measured(0.4, quality=conflict, motion=conflict),
        "File": {"skipped": "needs a file"},
        "Alone": {"skipped": "does not run on a Wan by itself: KeyError: 'x'"},
    }
    words = table.host_nodes_table(
        {
            "plain": PLAIN,
            "nodes": nodes,
            "comfyui": "9",
            "steps": 3,
            "environment": {"device": "cpu"},
        }
    )
    assert "| Good | 40.0% | 40.0% / 40.0% | 40.0% / 40.0% |" in words
    assert "| Lost | 40.0% | 40.0% / 40.0% | 40.0% / **RuntimeError** |" in words
    assert "bit for bit, but for Lost." in " ".join(words.split())
    assert "Without an effect on a Wan, and none cached: Nothing." in words
    assert "Refused, as a second cache: Cache." in words
    assert "Not run, as it needs a file: File." in words
    assert "does not run on a Wan by itself: Alone." in words
    assert "| A, B | 20.0% | 20.0% / 20.0% | 20.0% / 20.0% |" in words
    assert "| M0 and 4 alike | 70.0% |" in words and "Alike: M0, M1, M2, M3, M4." in words
    assert words.startswith("| node | uncached | quality | motion |")
