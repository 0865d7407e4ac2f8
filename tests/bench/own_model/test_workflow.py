"""What `run.py` finds in a user's workflow and options; no server is needed."""

import argparse
import json
import re

import pytest
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.user_workflows import infos, node, one_model, two_experts
from motioncache_pack.tests.workflows import signatures
from motioncache_pack.tests.workflows.examples import EXAMPLES

# finding


def test_one_model(bench):
    found = bench("own_model.graph").find(one_model(), infos())
    assert found.samplers == {"4": ("6",)} and found.timed == ("6",)
    assert found.frames == ("7", 0)
    assert found.seeds == (("6", "seed"),)
    # a file's name is not what the frames are made of
    assert found.prompts == (("2", "text"),)


def test_two_experts(bench):
    found = bench("own_model.graph").find(two_experts(), infos())
    # the second sampler's schedule comes from the first model, which does not make it its sampler
    assert found.samplers == {"10": ("50",), "11": ("51",)}
    assert found.frames == ("61", 0)
    assert found.seeds == (("20", "value"),)


DECODERS = ("VAEDecode", "VAEDecodeTiled", "MotionCacheDemoDecode")


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
    found = bench("own_model.graph").find(graph, known)
    samplers = {graph[key]["class_type"] for key in found.timed}
    assert samplers <= {
        "KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced",
    }  # fmt: skip
    assert graph[found.frames[0]]["class_type"] in DECODERS
    assert {name for _, name in found.seeds} <= {"seed", "noise_seed"}
    # the frames need every sampler that a cache is put before
    needed = bench("own_model.workflow").ancestors(graph, [found.frames[0]])
    caches = [n for n in graph.values() if n["class_type"] == "MotionCachePatcher"]
    assert set(found.timed) <= needed and len(found.samplers) == len(caches)


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
    error = bench("own_model.workflow").WorkflowError
    with pytest.raises(error, match=words):
        bench("own_model.graph").find(broken(change), infos())


def test_which_frames_can_be_said(bench):
    graph = broken(lambda g: g.update({"12": node("VAEDecode", samples=["6", 0])}))
    find, error = bench("own_model.graph").find, bench("own_model.workflow").WorkflowError
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
    error = bench("own_model.workflow").WorkflowError
    with pytest.raises(error, match=f"{words}.*Export .API."):
        bench("own_model.workflow").read(path)


def test_an_export_is_read_as_it_is_or_as_it_is_posted(bench, tmp_path):
    path = tmp_path / "w.json"
    for data in (one_model(), {"prompt": one_model()}):
        path.write_text(json.dumps(data), "utf-8")
        assert bench("own_model.workflow").read(path) == one_model()


def test_prompts(bench, tmp_path):
    model, find = bench("own_model.run"), bench("own_model.graph").find
    error, path = bench("own_model.workflow").WorkflowError, tmp_path / "p.txt"
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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--budgets 0.3 0", "--budgets: 0 is no share.*above 0, up to 1: 0.4 computes 40 %"),
        ("--budgets 40", "--budgets: 40 is no share"),
        ("--budgets nan", "--budgets: nan is no share"),
        ("--budgets much", "--budgets: invalid budget value: 'much'"),
        ("--thresholds -0.1", "--thresholds: -0.1 is no threshold.*above 0, up to 10"),
        ("--peer-thresholds 11", "--peer-thresholds: 11 is no threshold"),
        ("--policies paper fast --sweep", "none of --policies has a --sweep; name .*teac"),
        ("--seeds 0", "--seeds is 0; give 1 or more"),
    ],
)
def test_options_that_make_no_sense(bench, monkeypatch, capsys, given, words):
    monkeypatch.setattr("sys.argv", ["real_model.py", "--workflow", "no.json", *given.split()])
    with pytest.raises(SystemExit) as ended:
        bench("own_model.run").main()
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_help_names_what_the_sweep_takes(bench):
    model, policies = bench("own_model.run"), bench("own_model.policies")
    said = model.parser().format_help()
    for name in policies.ALLOWED:
        assert re.search(rf"\b{name}\b", said.partition("options:")[0]), name
    args = model.parser().parse_args(["--workflow", "w"])
    assert args.budgets == (0.25, 0.3, 0.4, 0.5, 0.65) and "0.25 0.3 0.4 0.5 0.65" in said
    assert args.policies == list(policies.DEFAULT)


def test_keys_tell_runs_apart(bench):
    model, runs, policies = (
        bench("own_model.run"),
        bench("own_model.runs"),
        bench("own_model.policies"),
    )
    args = argparse.Namespace(images=None, policies=["fast", "step"], sweep=True, prompts=None,
                              budgets=[0.3, 0.5], thresholds=[0.1], peer_thresholds=[],
                              seeds=2, first_seed=5)  # fmt: skip
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
