"""How `run.py` changes a user's workflow into what is compared; no server is needed."""

import copy
from dataclasses import replace

import pytest
from motioncache_pack.motioncache_core import PRESETS, settings_for_run
from motioncache_pack.tests.support.user_workflows import infos, node, one_model, two_experts


def kinds(graph):
    return sorted(n["class_type"] for n in graph.values())


@pytest.fixture
def change(bench):
    """`change(graph, policy, value)`: the graph as a policy wants it; the given one is left."""

    def go(graph, policy, value=None):
        policies, find = bench("own_model.policies"), bench("own_model.graph").find
        before = copy.deepcopy(graph)
        job = policies.Job(policy, value)
        out = policies.edited(graph, find(graph, infos()), job, infos())
        assert graph == before
        return out

    return go


@pytest.mark.parametrize("policy", ["none", "none, again"])
def test_without_a_cache_the_node_is_gone(change, policy):
    graph = change(one_model(), policy)
    wanted = {k: v for k, v in one_model().items() if k in ("1", "2", "3", "5", "6", "7")}
    wanted["5"]["inputs"]["model"] = ["1", 0]
    wanted["motioncache frames"] = node("PreviewImage", images=["7", 0])
    assert graph == wanted


@pytest.mark.parametrize("policy", [name for name in PRESETS if name != "off"])
def test_a_preset_replaces_the_settings(change, policy):
    graph = change(two_experts(), policy)
    for key, source in (("10", ["1", 0]), ("11", ["2", 0])):
        assert graph[key] == node("MotionCachePatcher", model=source, preset=policy)
    assert kinds(graph).count("MotionCacheReport") == kinds(graph).count("PreviewAny") == 2
    assert "30" not in graph and "60" not in graph
    # each report waits for its own sampler
    shown = {n["inputs"]["trace"][0]: n["inputs"]["samples"] for n in graph.values()
             if n["class_type"] == "MotionCacheReport"}  # fmt: skip
    assert shown == {"10": ["50", 0], "11": ["51", 0]}


PUBLISHED = {
    "warmup_steps": 5, "reuse_threshold": 0.1, "max_stale_steps": 0, "compute_budget": 0.0,
    "motion_source": "predicted_x0", "forecast": 0.0, "kv_forecast": 0.0, "correction": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "value", "changed"),
    [
        ("step", None, {"policy": "step"}),
        ("chunk", 0.7, {"policy": "chunk", "compute_budget": 0.7}),
        ("random", 0.3, {"policy": "random", "compute_budget": 0.3}),
        ("motion", 0.35, {"compute_budget": 0.35}),
        ("balanced", 0.35, {"policy": "answer", "warmup_steps": 1, "compute_budget": 0.35}),
        ("teacache", None, {"policy": "step", **PUBLISHED}),
        ("flowcache", 0.3, {"policy": "chunk", **PUBLISHED, "reuse_threshold": 0.3}),
    ],
)
def test_other_policies_differ_from_motion_in_what_they_say(change, policy, value, changed):
    graph = change(one_model(), policy, value)
    (key,) = [k for k, n in graph.items() if n["class_type"] == "MotionCacheSettings"]
    assert graph["4"]["inputs"]["settings"] == [key, 0]
    ours = PRESETS["motion"].as_dict()
    given = graph[key]["inputs"]
    assert given == {name: changed.get(name, ours[name]) for name in given}
    assert given.keys() == infos()["MotionCacheSettings"]["input"]["required"].keys()


def test_a_swept_run_that_is_a_preset_is_made_as_one(change, bench):
    assert change(one_model(), "balanced", 0.3) == change(one_model(), "fast")
    model = bench("own_model.run")
    args = model.parser().parse_args(["--workflow", "w", "--policies", "fast", "balanced",
                                      "--sweep", "--budgets", "0.3", "0.35"])  # fmt: skip
    graph = one_model()
    graph["2"]["inputs"]["text"] = "a fox"
    keys = [key for _, _, key in model.planned(args, graph, infos()).runs()]
    # none, none again, fast, balanced, balanced at 0.3, balanced at 0.35; three clips
    assert len(keys) == 3 * 6 and len(set(keys)) == 3 * 5


def test_what_the_docstring_says_of_presets(bench):
    """Which have no sweep of their own, and from which number of steps on they are as written."""
    policies = bench("own_model.policies")
    ours = PRESETS[policies.OURS]
    for name in ("quality", "fast"):
        assert replace(PRESETS[name], compute_budget=ours.compute_budget) == ours
        assert settings_for_run(name, 9).settings == PRESETS[name] and name in policies.WHOLE
    assert policies.TOKENS not in policies.WHOLE and "off" not in policies.ALLOWED
    assert settings_for_run(policies.TOKENS, 13).settings == PRESETS[policies.TOKENS]
    assert settings_for_run(policies.TOKENS, 12).settings != PRESETS[policies.TOKENS]


@pytest.mark.parametrize(("value", "given"), [(None, 0.2), (0.05, 0.05)])
def test_a_rival_stands_where_the_cache_was(change, value, given):
    graph = change(one_model(), "EasyCache", value)
    (key,) = [k for k, n in graph.items() if n["class_type"] == "EasyCache"]
    rival = node("EasyCache", reuse_threshold=given, verbose=False, model=["1", 0])
    assert graph[key] == rival and graph["5"]["inputs"]["model"] == [key, 0]
    assert not [k for k in kinds(graph) if k.startswith("MotionCache")]


def test_the_workflows_own_settings(change):
    graph = change(two_experts(), "workflow")
    assert {k: graph[k] for k in ("10", "11", "30")} == {
        k: two_experts()[k] for k in ("10", "11", "30")
    }


def test_settings_of_another_version(bench):
    policies, told = bench("own_model.policies"), infos()
    told["MotionCacheSettings"]["input"]["required"]["novelty"] = ["X", {}]
    found = bench("own_model.graph").find(one_model(), told)
    error = bench("own_model.workflow").WorkflowError
    with pytest.raises(error, match=r"novelty.*different versions"):
        policies.edited(one_model(), found, policies.Job("step"), told)
    policies.edited(one_model(), found, policies.Job("fast"), told)


@pytest.mark.parametrize(
    ("missing", "words"), [("EasyCache", "name other --policies"), ("PreviewAny", "Update ComfyUI")]
)
def test_a_server_without_a_node_that_is_added(bench, missing, words):
    told, error = infos(), bench("own_model.workflow").WorkflowError
    del told[missing]
    with pytest.raises(error, match=f"{missing}.*{words}"):
        bench("own_model.policies").check_nodes(["fast", "EasyCache"], told)
    if missing == "EasyCache":
        bench("own_model.policies").check_nodes(["fast", "LazyCache"], told)


def test_a_mark_makes_samplers_new_and_nothing_else(bench):
    policies, found = (
        bench("own_model.policies"),
        bench("own_model.graph").find(two_experts(), infos()),
    )
    graph = two_experts()
    marked = policies.marked(graph, found, "x")
    changed = {key for key in graph if marked[key] != graph[key]}
    assert changed == {"50", "51"} and graph == two_experts()


def test_jobs_of_a_sweep(bench):
    policies = bench("own_model.policies")
    named = ["balanced", "paper", "fast", "random", "teacache", "flowcache", "EasyCache"]
    jobs = policies.jobs([*named, "workflow"], [0.3, 0.4], [0.1, 0.2], [0.15])
    # the paper's policy cannot be set by widgets; 0.4 is balanced's own budget and that of what
    # differs from it, 0.1 the rivals' own threshold
    assert [j.label for j in jobs] == [
        "none", "none, again", "balanced", "balanced at 0.3", "paper", "fast", "random",
        "random at 0.3", "teacache", "teacache at 0.2", "flowcache", "flowcache at 0.2",
        "EasyCache", "EasyCache at 0.15", "workflow",
    ]  # fmt: skip
    assert len(policies.jobs(named, (), (), ())) == 2 + len(named)
    for policy in ("paper", "fast"):
        with pytest.raises(ValueError, match=f"{policy} has no sweep"):
            policies.settings(policies.Job(policy, 0.3))
    others = {"step", "teacache", "random", *policies.PEERS}
    assert set(policies.DEFAULT) == {*PRESETS, *others} - {"off"}
