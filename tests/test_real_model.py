"""What `real_model.py` finds in a user's workflow, and how it changes it; no server is needed."""

import argparse
import copy
import json

import pytest
from motioncache_pack.motioncache_core import PRESETS
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.user_workflows import infos, node, one_model, two_experts
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import EXAMPLES


def kinds(graph):
    return sorted(n["class_type"] for n in graph.values())


# finding


def test_one_model(bench):
    found = bench("real_graph").find(one_model(), infos())
    assert found.samplers == {"4": ("6",)} and found.timed == ("6",)
    assert found.frames == ("7", 0)
    assert found.seeds == (("6", "seed"),)
    # a file's name is not what the frames are made of
    assert found.prompts == (("2", "text"),)


def test_two_experts(bench):
    found = bench("real_graph").find(two_experts(), infos())
    # the second sampler's schedule comes from the first model, which does not make it its sampler
    assert found.samplers == {"10": ("50",), "11": ("51",)}
    assert found.frames == ("61", 0)
    assert found.seeds == (("20", "value"),)


def test_two_samplers_of_one_model_in_their_order(bench):
    graph = two_experts()
    graph["41"]["inputs"]["model"] = ["10", 0]
    del graph["11"], graph["2"], graph["30"]
    assert bench("real_graph").find(graph, infos()).samplers == {"10": ("50", "51")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_workflows(bench, root, name):
    undo = fake_comfy.install()
    try:
        known = {
            kind: {"output": [o["type"] for o in told["outputs"]]}
            for kind, told in signatures.known().items()
        }
        workflow = json.loads((root / "workflows" / f"{name}.json").read_text("utf-8"))
        graph = signatures.to_api(workflow)
    finally:
        undo()
    found = bench("real_graph").find(graph, known)
    samplers = {graph[key]["class_type"] for key in found.timed}
    assert samplers <= {"KSampler", "KSamplerAdvanced", "SamplerCustom"}
    assert graph[found.frames[0]]["class_type"] in ("VAEDecode", "MotionCacheDemoDecode")
    assert {name for _, name in found.seeds} <= {"seed", "noise_seed"}
    # the frames need every sampler that a cache is put before
    needed = bench("real_workflow").ancestors(graph, [found.frames[0]])
    assert set(found.timed) <= needed and len(found.samplers) == kinds(graph).count(
        "MotionCachePatcher"
    )


def broken(change):
    graph = one_model()
    change(graph)
    return graph


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.pop("4") and g["5"]["inputs"].update(model=["1", 0]), "no MotionCache node"),
        (lambda g: g["5"]["inputs"].update(model=["1", 0]), "reaches no sampler"),
        (lambda g: g["4"]["inputs"].pop("model"), "has no model"),
        (lambda g: [g.pop(k) for k in ("7", "8", "10", "11")], "no frames to compare"),
        (lambda g: g.update({"12": node("VAEDecode", samples=["6", 0])}), "several nodes decode"),
        (lambda g: g["6"]["inputs"].pop("seed"), "no node that makes the frames has an input"),
        (lambda g: g.update({"12": node("Foo")}), "does not know the nodes Foo"),
        (
            lambda g: g.update({"1": node("LazyCache", model=["0", 0]), "0": node("Loader")}),
            r"another cache: LazyCache \(node 1\)",
        ),
    ],
)
def test_what_cannot_be_measured(bench, change, words):
    error = bench("real_workflow").WorkflowError
    with pytest.raises(error, match=words):
        bench("real_graph").find(broken(change), infos())


def test_which_frames_can_be_said(bench):
    graph = broken(lambda g: g.update({"12": node("VAEDecode", samples=["6", 0])}))
    find, error = bench("real_graph").find, bench("real_workflow").WorkflowError
    assert find(graph, infos(), "12").frames == ("12", 0)
    for wrong in ("6", "99"):
        with pytest.raises(error, match=f"--images names node {wrong}.*VAEDecode .node 7"):
            find(graph, infos(), wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ('{"nodes": [], "links": []}', "the format that the page saves"),
        ("[]", "no workflow in the API format"),
        ('{"1": {"inputs": {}}}', "no workflow in the API format"),
    ],
)
def test_files_that_are_no_export(bench, tmp_path, text, words):
    path = tmp_path / "w.json"
    if text is not None:
        path.write_text(text, "utf-8")
    error = bench("real_workflow").WorkflowError
    with pytest.raises(error, match=f"{words}.*Export .API."):
        bench("real_workflow").read(path)


def test_an_export_is_read_as_it_is_or_as_it_is_posted(bench, tmp_path):
    path = tmp_path / "w.json"
    for data in (one_model(), {"prompt": one_model()}):
        path.write_text(json.dumps(data), "utf-8")
        assert bench("real_workflow").read(path) == one_model()


def test_prompts(bench, tmp_path):
    model, find = bench("real_model"), bench("real_graph").find
    error, path = bench("real_workflow").WorkflowError, tmp_path / "p.txt"
    with_text = find(one_model(), infos())
    without = find(broken(lambda g: g["2"]["inputs"].update(text="a fox")), infos())
    path.write_text("a fox\n\n  a hen \na fox\n", "utf-8")
    assert model.prompts_of(path, with_text) == ["a fox", "a hen"]
    assert model.prompts_of(None, without) == [None]
    with pytest.raises(error, match="--prompts"):
        model.prompts_of(None, with_text)
    with pytest.raises(error, match=r"\{prompt\}"):
        model.prompts_of(path, without)
    path.write_text("\n", "utf-8")
    with pytest.raises(error, match="no prompts"):
        model.prompts_of(path, with_text)
    with pytest.raises(error, match="cannot be read"):
        model.prompts_of(tmp_path / "none.txt", with_text)


# changing


@pytest.fixture
def change(bench):
    """`change(graph, policy, threshold)`: the graph as a policy wants it; the given one is left."""

    def go(graph, policy, threshold=None):
        policies, find = bench("real_policies"), bench("real_graph").find
        before = copy.deepcopy(graph)
        job = policies.Job(policy, threshold)
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


@pytest.mark.parametrize("policy", PRESETS)
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


@pytest.mark.parametrize(
    ("policy", "threshold", "changed"),
    [
        ("step", None, {"policy": "step"}),
        ("chunk", None, {"policy": "chunk"}),
        ("random", 0.3, {"policy": "random", "reuse_threshold": 0.3}),
        ("balanced", 0.3, {"reuse_threshold": 0.3}),
    ],
)
def test_other_policies_differ_from_balanced_in_what_they_say(change, policy, threshold, changed):
    graph = change(one_model(), policy, threshold)
    (key,) = [k for k, n in graph.items() if n["class_type"] == "MotionCacheSettings"]
    assert graph["4"]["inputs"]["settings"] == [key, 0]
    ours = PRESETS["balanced"].as_dict()
    given = graph[key]["inputs"]
    assert given == {name: changed.get(name, ours[name]) for name in given}
    assert given.keys() == infos()["MotionCacheSettings"]["input"]["required"].keys()


@pytest.mark.parametrize(("threshold", "given"), [(None, 0.2), (0.05, 0.05)])
def test_a_rival_stands_where_the_cache_was(change, threshold, given):
    graph = change(one_model(), "EasyCache", threshold)
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
    policies, told = bench("real_policies"), infos()
    told["MotionCacheSettings"]["input"]["required"]["novelty"] = ["X", {}]
    found = bench("real_graph").find(one_model(), told)
    error = bench("real_workflow").WorkflowError
    with pytest.raises(error, match=r"novelty.*different versions"):
        policies.edited(one_model(), found, policies.Job("step"), told)
    policies.edited(one_model(), found, policies.Job("fast"), told)


@pytest.mark.parametrize(
    ("missing", "words"), [("EasyCache", "name other --policies"), ("PreviewAny", "Update ComfyUI")]
)
def test_a_server_without_a_node_that_is_added(bench, missing, words):
    told, error = infos(), bench("real_workflow").WorkflowError
    del told[missing]
    with pytest.raises(error, match=f"{missing}.*{words}"):
        bench("real_policies").check_nodes(["fast", "EasyCache"], told)
    if missing == "EasyCache":
        bench("real_policies").check_nodes(["fast", "LazyCache"], told)


def test_a_mark_makes_samplers_new_and_nothing_else(bench):
    policies, found = bench("real_policies"), bench("real_graph").find(two_experts(), infos())
    graph = two_experts()
    marked = policies.marked(graph, found, "x")
    changed = {key for key in graph if marked[key] != graph[key]}
    assert changed == {"50", "51"} and graph == two_experts()


def test_jobs_of_a_sweep(bench):
    policies = bench("real_policies")
    jobs = policies.jobs(["balanced", "paper", "EasyCache"], [0.05, 0.08], [0.1])
    assert [j.label for j in jobs] == [
        "none", "none, again", "balanced", "balanced at 0.05", "paper", "EasyCache",
        "EasyCache at 0.1",
    ]  # fmt: skip
    # the paper's policy cannot be set by widgets, and 0.08 is balanced's own
    assert PRESETS["balanced"].reuse_threshold == 0.08


def test_keys_tell_runs_apart(bench):
    model, runs, policies = bench("real_model"), bench("real_runs"), bench("real_policies")
    args = argparse.Namespace(images=None, policies=["fast", "step"], sweep=True, prompts=None,
                              thresholds=[0.1], peer_thresholds=[], seeds=2,
                              first_seed=5)  # fmt: skip
    graph = broken(lambda g: g["2"]["inputs"].update(text="a fox"))
    plan = model.planned(args, graph, infos())
    assert plan.clips == [runs.Clip(None, 5), runs.Clip(None, 6)]
    keys = [key for _, _, key in plan.runs()]
    assert len(keys) == len(set(keys)) == 2 * 6
    assert keys == [key for _, _, key in model.planned(args, graph, infos()).runs()]
    clip, job = runs.Clip(None, 5), policies.Job("fast")
    assert plan.graph_of(clip, job)["6"]["inputs"]["seed"] == 5
    graph["3"]["inputs"]["width"] = 128
    assert model.planned(args, graph, infos()).key(clip, job) not in keys
