"""The stand-in against the real ComfyUI: names, signatures, order of calls, what a call sees.

The stand-in follows ComfyUI 0.33. What is known to differ in older versions is skipped there.
"""

import inspect
from types import SimpleNamespace

import pytest
from motioncache_pack.tests.support import fake_comfy

pytestmark = pytest.mark.comfy

WRAPPERS = ("OUTER_SAMPLE", "PREPARE_SAMPLING", "SAMPLER_SAMPLE", "PREDICT_NOISE",
            "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL")  # fmt: skip
CALLBACKS = ("ON_PRE_RUN", "ON_PREPARE_STATE", "ON_CLEANUP")


# names and signatures

ONLY_HERE = {
    "comfy.sd.set_network_factory": "tests give the network",
    "comfy.model_base.run_network": "the host's networks run their wrappers themselves",
    "comfy.model_base.BaseModel.__init__": "takes a network, not a model config",
    "comfy.model_base.WAN21.__init__": "takes a network, not a model config",
    "comfy.model_patcher.ModelPatcher.load_for_run": "the host's load_models_gpu",
    "comfy.model_sampling.ModelSampling": "the host makes this class in a function",
}


def exempt(path):
    return any(path == entry or path.startswith(entry + ".") for entry in ONLY_HERE)


def functions_of(module):
    for name, value in vars(module).items():
        origin = getattr(value, "__module__", None)
        if name.startswith("_") or origin not in (module.__name__, fake_comfy.cond_batch.__name__):
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield name, value
            for method, found in inspect.getmembers(value, inspect.isroutine):
                own = getattr(found, "__module__", "") == module.__name__
                if own and (not method.startswith("_") or method in ("__init__", "__call__")):
                    yield f"{name}.{method}", found


def stand_in_functions():
    for module_name, module in fake_comfy.modules().items():
        if module_name.startswith("comfy."):
            for name, value in functions_of(module):
                yield module_name, name, value


def lookup(module, dotted):
    for part in dotted.split("."):
        module = getattr(module, part)
    return module


def parameters(function):
    """(name, default) pairs, with empty containers and the like as one thing."""
    found = []
    for p in inspect.signature(function).parameters.values():
        default = "required" if p.default is p.empty else p.default or None
        found.append((p.name, p.kind.name, default))
    return found


def test_every_function_has_the_hosts_signature(host, current):
    wrong, checked = [], 0
    for module, name, mine in stand_in_functions():
        path = f"{module}.{name}"
        if exempt(path) or inspect.isclass(mine):
            continue
        try:
            theirs = lookup(getattr(host, module.removeprefix("comfy.")), name)
        except AttributeError:
            wrong.append(f"{path} is not in ComfyUI")
            continue
        want, have = parameters(theirs), parameters(mine)
        rest = want[len(have) :]
        if want[: len(have)] != have or any(default == "required" for *_, default in rest):
            wrong.append(f"{path}{inspect.signature(mine)}, ComfyUI: {inspect.signature(theirs)}")
        checked += 1
    assert not wrong, "\n".join(wrong)
    assert checked > 80


def test_every_class_and_exception_is_there_with_the_same_bases(host, current):
    classes = 0
    for module, name, mine in stand_in_functions():
        if exempt(f"{module}.{name}") or not inspect.isclass(mine):
            continue
        theirs = lookup(getattr(host, module.removeprefix("comfy.")), name)
        ours = {base.__name__ for base in mine.__mro__}
        assert ours <= {base.__name__ for base in theirs.__mro__}, name
        assert issubclass(mine, Exception) == issubclass(theirs, Exception), name
        classes += 1
    assert classes > 10


def test_exemptions_are_real():
    known = {f"{module}.{name}" for module, name, _ in stand_in_functions()}
    assert set(ONLY_HERE) - {"comfy.model_base.WAN21.__init__"} <= known


def test_wrapper_and_callback_names(same, host, standin):
    same(lambda h: {n: getattr(h.patcher_extension.WrappersMP, n) for n in WRAPPERS})
    mine = vars(standin.patcher_extension.CallbacksMP)
    same(lambda h: {n: getattr(h.patcher_extension.CallbacksMP, n) for n in mine if n[:3] == "ON_"})
    real = [n for n in vars(host.patcher_extension.WrappersMP) if n.isupper()]
    assert sorted(real) == sorted(WRAPPERS)


# order and arguments of the calls


def watch_run(host, patcher, detail):
    """Have every wrapper and callback note its name and, if asked, its arguments' types."""
    seen = []

    def kinds(args, keywords):
        args = [type(arg).__name__ for arg in args]
        # the networks are different classes on purpose
        return (args, sorted(keywords)) if detail else None

    def watch(name):
        def wrapper(executor, *args, **keywords):
            owner = executor.class_obj
            owner = "network" if name == "DIFFUSION_MODEL" else type(owner).__name__
            seen.append((name, owner, kinds(args, keywords)))
            return executor(*args, **keywords)

        return wrapper

    for name in WRAPPERS:
        kind = getattr(host.patcher_extension.WrappersMP, name)
        patcher.add_wrapper_with_key(kind, "test", watch(name))
    for name in CALLBACKS:
        kind = getattr(host.patcher_extension.CallbacksMP, name)
        patcher.add_callback_with_key(
            kind, "test", lambda *args, name=name: seen.append((name, None, kinds(args, {})))
        )
    return seen


@pytest.fixture
def record(tiny, run):
    def go(host, detail=False, **kwargs):
        patcher = tiny(host)
        seen = watch_run(host, patcher, detail)
        run(host, patcher, **kwargs)
        return seen

    return go


def test_order_of_a_run(same, record):
    seen = same(lambda h: record(h, steps=3))
    names = [name for name, *_ in seen]
    step = [
        "PREDICT_NOISE",
        "CALC_COND_BATCH",
        "ON_PREPARE_STATE",
        "APPLY_MODEL",
        "DIFFUSION_MODEL",
    ]
    start = ["OUTER_SAMPLE", "PREPARE_SAMPLING", "ON_PRE_RUN", "SAMPLER_SAMPLE"]
    assert names == [*start, *step * 3, "ON_CLEANUP"]


def test_arguments_of_a_run(same, record, current):
    seen = same(lambda h: record(h, detail=True, steps=2))
    outer = seen[0][2]
    assert outer[0][2] == "KSAMPLER"
    assert outer[1] == ["latent_shapes"]


def test_order_with_heun_and_without_guidance(same, record):
    assert len(same(lambda h: record(h, steps=3, sampler="heun"))) == 5 + 5 * 5
    assert len(same(lambda h: record(h, steps=2, cfg=1.0))) == 5 + 5 * 2


def test_first_added_is_outermost_and_a_key_keeps_its_place(same, toy, run):
    def facts(host):
        patcher, seen = toy(host), []
        for key, name in (("a", "first"), ("b", "second"), ("a", "third")):
            patcher.add_wrapper_with_key(
                "apply_model",
                key,
                lambda ex, *a, name=name, **k: (seen.append(name), ex(*a, **k))[1],
            )
        run(host, patcher, steps=1)
        patcher.remove_wrappers_with_key("apply_model", "a")
        left = patcher.get_wrappers("apply_model", "a"), patcher.get_all_wrappers("apply_model")
        return seen, *map(len, left)

    assert same(facts) == (["first", "third", "second"], 0, 1)


# what a call sees


@pytest.fixture
def options_seen(run):
    """What the DIFFUSION_MODEL wrapper of each call gets."""

    def go(host, patcher, **kwargs):
        seen = watch_options(patcher)
        run(host, patcher, **kwargs)
        return seen

    return go


def watch_options(patcher):
    seen = []

    def wrapper(executor, x, timestep, context, *args, **keywords):
        options = next(a for a in args if isinstance(a, dict) and "sigmas" in a)
        seen.append(SimpleNamespace(x=x, timestep=timestep, options=dict(options), raw=options))
        return executor(x, timestep, context, *args, **keywords)

    patcher.add_wrapper_with_key("diffusion_model", "test", wrapper)
    return seen


def test_keys_of_transformer_options(same, tiny, options_seen, comfy_version):
    newer = {"prefetch_dynamic_vbars"} if comfy_version < (0, 21) else set()
    keys = same(lambda h: set(options_seen(h, tiny(h), steps=1)[0].options) - newer)
    assert {"sigmas", "sample_sigmas", "uuids", "cond_or_uncond", "wrappers"} <= keys


def test_values_of_transformer_options(same, tiny, options_seen):
    def facts(host):
        calls = options_seen(host, tiny(host), steps=3)
        return [
            {
                "sigmas": call.options["sigmas"].tolist(),
                "sample_sigmas": call.options["sample_sigmas"].tolist(),
                "timestep": call.timestep.tolist(),
                "shape": tuple(call.x.shape),
                "uuids": len(set(call.options["uuids"])),
                "same_uuids_as_first_call": call.options["uuids"] == calls[0].options["uuids"],
                "own_dict": all(call.raw is not other.raw for other in calls if other is not call),
            }
            for call in calls
        ]

    calls = same(facts)
    # one sigma per sample, not per condition
    assert len(calls[1]["sigmas"]) == 1
    assert len(calls[1]["timestep"]) == 2
    assert calls[2]["same_uuids_as_first_call"]


def test_options_are_copied_for_each_call_but_leaves_are_not(same, toy, run):
    def facts(host):
        patcher, leaf, lengths = toy(host), object(), []
        patcher.model_options["transformer_options"]["mine"] = {"leaf": leaf, "deep": {"calls": []}}

        def wrapper(executor, *args, **kwargs):
            mine = args[5]["mine"]
            mine["deep"]["calls"].append(1)
            lengths.append((len(mine["deep"]["calls"]), mine["leaf"] is leaf))
            return executor(*args, **kwargs)

        patcher.add_wrapper_with_key("diffusion_model", "test", wrapper)
        run(host, patcher, steps=3)
        return lengths, patcher.model_options["transformer_options"]["mine"]["deep"]["calls"]

    assert same(facts) == ([(1, True)] * 3, [])


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", [[1, 0]]),
        ("cfg 1", [[0]]),
        ("other text length", [[0], [1]]),
        ("low memory", [[1], [0]]),
        ("uncond ends", [[1, 0], [1, 0], [1, 0], [0]]),
    ],
)
def test_batches(same, toy, options_seen, case, expected, monkeypatch):
    def facts(host):
        negative = host.text(2, tokens=8 if case == "other text length" else 16)
        if case == "uncond ends":
            negative[0][1]["end_percent"] = 0.5
        cfg, steps = 1.0 if case == "cfg 1" else 5.0, len(expected) if case == "uncond ends" else 1
        with monkeypatch.context() as patch:
            if case == "low memory":
                host.run_short_of_memory(patch)
            calls = options_seen(host, toy(host), negative=negative, cfg=cfg, steps=steps)
        return [call.options["cond_or_uncond"] for call in calls]

    assert same(facts) == expected
