"""Node ids, inputs and outputs are a public contract: saved workflows depend on them."""

import inspect
from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core import (
    PRESETS,
    ForcingOptions,
    MotionCacheSettings,
    settings_for_run,
)
from motioncache_pack.motioncache_core.common.reasons import because
from motioncache_pack.tests.nodes.contract import CONTRACT, NAMES
from motioncache_pack.tests.nodes.test_conflicts import OtherNetwork
from motioncache_pack.tests.support.node_runs import marks

# the others are side by side
FOLDERS = {
    "MotionCacheDiffusionForcing": "sampling", "MotionCacheExtendVideo": "sampling",
    "MotionCacheLoadSkyReels": "sampling", "MotionCacheLoadMagi": "sampling",
    "MotionCacheMagiText": "sampling", "MotionCacheMagiLatent": "sampling",
    "MotionCacheMagiSampling": "sampling", "MotionCacheLoadMagiVAE": "sampling",
    "MotionCacheDemoModel": "demo", "MotionCacheDemoDecode": "demo", "MotionCacheMagiTiny": "demo",
}  # fmt: skip

# they run without a node behind them
SHOWN = ("MotionCacheMotionMap", "MotionCacheReport", "MotionCacheCompare")

# made from the options that they give, behind their sockets
DECLARED = ("MotionCacheSettings", "MotionCacheDiffusionForcing", "MotionCacheMagiSampling")

SETTINGS = CONTRACT["MotionCacheSettings"][1]


def contract_inputs(info):
    """Required and optional inputs as the server tells them, without what may be reworded and
    without the names of files."""
    told = ("tooltip", "multiselect", "display_name")

    def kept(name, said):
        files = ("options",) if name in ("model_name", "vae_name") else ()
        return {k: v for k, v in said.items() if k not in (*told, *files)}

    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return [{n: (kind, kept(n, said)) for n, (kind, said) in group.items()} for group in groups]


def test_the_pack_has_these_nodes_and_no_others(pack):
    assert set(pack.nodes) == set(CONTRACT)


@pytest.mark.parametrize("node_id", CONTRACT)
def test_inputs_and_outputs_are_the_contract(pack, node_id):
    info = pack.nodes[node_id].GET_NODE_INFO_V1()
    name, required, optional, outputs = CONTRACT[node_id]
    assert info["name"] == node_id
    assert info["display_name"] == name
    assert contract_inputs(info) == [required, optional]
    assert info["input_order"]["required"] == list(required)
    assert list(zip(info["output"], info["output_name"], strict=True)) == outputs


def test_execute_takes_the_inputs_in_their_order(pack):
    for node_id, node in pack.nodes.items():
        inputs = node.define_schema().inputs
        parameters = inspect.signature(node.execute).parameters
        if node_id in DECLARED:
            # sockets, then whatever its options declare
            *sockets, rest = parameters.values()
            assert rest.kind == inspect.Parameter.VAR_KEYWORD
            assert [p.name for p in sockets] == [i.id for i in inputs[: len(sockets)]]
            continue
        assert [i.id for i in inputs] == list(parameters), node_id
        # the host leaves out what is not connected
        optional = [parameters[i.id] for i in inputs if i.optional]
        assert all(p.default is not p.empty for p in optional)


def test_everything_is_explained_and_found(pack):
    for node_id, node in pack.nodes.items():
        schema = node.define_schema()
        named = (*schema.inputs, *schema.outputs)
        assert [p.id or p.display_name for p in named if not p.tooltip] == [], node_id
        assert schema.description and schema.search_aliases, node_id
        assert schema.category.split("/") == ["MotionCache", *FOLDERS.get(node_id, "").split()]
        assert schema.is_output_node == (node_id in SHOWN), node_id


def defaults(node_id):
    return {name: said["default"] for name, (_, said) in CONTRACT[node_id][1].items()}


def test_nodes_left_alone_give_the_balanced_preset_and_the_default_options(pack):
    (settings,) = pack.execute("MotionCacheSettings", **defaults("MotionCacheSettings"))
    assert settings == PRESETS["balanced"]
    # what no widget shows
    assert settings.as_dict().keys() - SETTINGS.keys() == {"dense_last", "clamp_distance"}
    node_id = "MotionCacheDiffusionForcing"
    (sampler,) = pack.execute(node_id, **defaults(node_id))
    assert sampler.options == ForcingOptions()
    assert isinstance(sampler, pack.host.samplers.Sampler)


def test_every_widget_reaches_its_setting(pack):
    other = {
        "COMBO": lambda said, n: next(o for o in said["options"][::-1] if o != said["default"]),
        "BOOLEAN": lambda said, n: not said["default"],
        "INT": lambda said, n: said["default"] + 1 + n,
        "FLOAT": lambda said, n: 0.21 + n / 100,
    }
    given = {name: other[kind](said, n) for n, (name, (kind, said)) in enumerate(SETTINGS.items())}
    (made,) = pack.execute("MotionCacheSettings", **given)
    assert {name: getattr(made, name) for name in given} == given
    assert all(getattr(PRESETS["balanced"], name) != value for name, value in given.items())


@pytest.mark.parametrize(
    "changed",
    [
        {"chunk_frames": 3, "chunk_delay": 7, "solver": "euler", "condition_noise": 0.02,
         "window_frames": 9, "overlap_frames": 6, "kv_keep": 2},
        {"attention": "bidirectional"},
    ],
    ids=["most", "attention"],
)  # fmt: skip
def test_every_widget_reaches_its_option(pack, changed):
    node_id = "MotionCacheDiffusionForcing"
    (sampler,) = pack.execute(node_id, **{**defaults(node_id), **changed})
    assert sampler.options == ForcingOptions(**changed)


def test_every_preset_of_the_patcher_exists_and_patches(pack):
    assert list(PRESETS) == list(NAMES)
    for name in PRESETS:
        model, handle = pack.execute("MotionCachePatcher", pack.wan(), name)
        pack.sample(model, steps=9)
        # the run's length counts
        chosen = settings_for_run(name, 9)
        assert handle.latest.settings == chosen.settings.as_dict()
        assert handle.latest.preset == name and set(chosen.why) <= set(handle.latest.why)


def test_a_model_of_unknown_tokens_reports_the_preset_and_what_became_of_it(pack):
    for name, preset in PRESETS.items():
        model, handle = pack.execute("MotionCachePatcher", pack.host.patcher(OtherNetwork()), name)
        pack.sample(model, steps=12)
        trace = handle.latest
        assert trace.preset == name and trace.reason == ("" if name != "off" else because("off"))
        if preset.traits.answers or name == "off":
            assert trace.settings == preset.as_dict()
            continue
        # as much work, or that of the default where a threshold decides
        budget = preset.compute_budget or PRESETS["balanced"].compute_budget
        changed = replace(PRESETS["balanced"], compute_budget=budget)
        # what is said of the preset's settings is not true of these
        assert trace.why == [
            f"{round(budget * 12)} of the sampler's 12 evaluations are computed, the "
            "others foretold from answers and made up for in hindsight",
            "the answer changed by 2.0% only up to the second of them, so more of them are "
            "computed towards the end",
        ]
        assert trace.settings == changed.as_dict() and marks(trace).count("D") == round(budget * 12)


def test_a_settings_socket_wins_over_the_preset(pack):
    settings = MotionCacheSettings(warmup_steps=9)
    model, handle = pack.execute("MotionCachePatcher", pack.wan(), "fast", settings)
    pack.sample(model, steps=1)
    assert handle.latest.settings == settings.as_dict()
