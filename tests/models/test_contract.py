"""What every family must keep, whatever its blocks look like. A new adapter is one entry in
`tests/support/families.py`."""

import gc
from dataclasses import replace

import pytest
import torch
from motioncache_pack import kernels
from motioncache_pack.motioncache_core.common.errors import UnsupportedModelError
from motioncache_pack.motioncache_core.engine.session import Session
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.hunyuan_video import HUNYUAN_VIDEO
from motioncache_pack.motioncache_core.report.trace import Trace
from motioncache_pack.motioncache_core.sampling.forcing_call import ForcingCall
from motioncache_pack.motioncache_core.sampling.model_call import ModelCall
from motioncache_pack.motioncache_core.sampling.options import ForcingOptions
from motioncache_pack.motioncache_core.sampling.run_facts import RunFacts
from motioncache_pack.motioncache_core.sampling.schedule import forcing_schedule
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import random_rows
from motioncache_pack.tests.core.runs import Steady, dictate, living_tensors
from motioncache_pack.tests.support.assert_close import assert_close, assert_same, relative_error
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.family import Oracle
from motioncache_pack.tests.support.toy_hidden import Grid, Pair

SETTINGS = MotionCacheSettings(dense_last=False, max_stale_steps=0)
NAMES = list(FAMILIES)


class Run:
    """One session around a family's network."""

    def __init__(self, family, settings=SETTINGS):
        self.family, self.trace = family, Trace(settings.as_dict())
        facts = RunFacts(profile=Steady())
        self.session = Session(settings, kernels, facts, self.trace)

    def call(self, call, branches=("cond",), options=None, forcing=None):
        """The answer of one call; the same call twice is two calls."""
        network = self.family.network

        def run(given):
            return call.run(network, given)

        return self.session.evaluate(
            ModelCall(network, run, call.x, call.t, branches, options or {}, call.more, forcing)
        )

    def video(self, *args, **kwargs):
        return self.family.video(self.call(*args, **kwargs))

    @property
    def kinds(self):
        return [call.kind for e in self.trace.evaluations for call in e.calls]

    def residual(self):
        """What is stored for the only branch."""
        (table,) = self.session._clips.latest._tables.values()
        return table.entries["cond"].residual


@pytest.fixture(params=NAMES)
def family(request):
    return FAMILIES[request.param]()


def _fail(left):
    if left:
        left.pop()
        raise torch.OutOfMemoryError("scarce")


def plain(family, call):
    return family.video(call.run(family.network, {}))


def test_every_adapter_is_here():
    known = {FAMILIES[name]().adapter.name for name in NAMES}
    # blocks that the host has no hook for: test_hidden_blocks.py
    known |= {registry.find_adapter(kind())[0].name for kind in (Grid, Pair)}
    assert known == {adapter.name for adapter in registry.ADAPTERS}


def test_off_is_bit_identical(family):
    run = Run(family, replace(SETTINGS, reuse_threshold=0.0))
    for step in range(3):
        call = family.call(step, 0)
        assert_same(f"step {step}", plain(family, call), run.video(call))


def test_a_dense_evaluation_is_bit_identical_and_stores_what_the_blocks_added(family, monkeypatch):
    dictate(monkeypatch, "dense", "dense", "reuse")
    run, oracle = Run(family), Oracle(family)
    everything = range(family.tokens)
    for step in range(2):
        call = family.call(step, 0)
        assert_same(f"step {step}", plain(family, call), run.video(call))
        oracle.call(call, everything)
    added = oracle.residual
    assert float(added.abs().mean()) > 0.1, "a family whose blocks add nothing shows nothing"
    assert_close("residual", added, run.residual())
    assert_close("reused", plain(family, call), run.video(call))
    assert run.kinds == family.kinds("dense", "dense", "reuse")


def test_a_dense_evaluation_hands_the_first_block_what_the_model_made(monkeypatch):
    """Not a copy: what products round can depend on how a tensor lies in memory."""
    dictate(monkeypatch, "dense")
    family, given = FAMILIES["wan"](), []
    first = family.network.blocks[0]
    first.register_forward_pre_hook(lambda _, args: given.append(args[0].stride()))
    call = family.call(0, 0)
    plain(family, call)
    Run(family).video(call)
    assert given[0] == given[1] != (given[0][0], family.network.dim, 1)


def test_all_rows_active_is_dense(family, monkeypatch):
    dictate(monkeypatch, "dense", range(family.tokens))
    run = Run(family)
    for step in range(2):
        call = family.call(step, 0)
        assert_close(f"step {step}", plain(family, call), run.video(call))
    assert run.kinds == ["dense", "partial"]


def test_a_subset_on_unchanged_input_is_dense(family, monkeypatch):
    rows = [random_rows(family.tokens, n, n) for n in (1, family.tokens // 3)]
    dictate(monkeypatch, "dense", *rows)
    run, call = Run(family), family.call(0, 0)
    for i in range(3):
        assert_close(f"call {i}", plain(family, call), run.video(call))
    assert run.kinds == ["dense", "partial", "partial"]


@pytest.mark.parametrize("kv_cache", ["gpu", "cpu"])
def test_a_subset_on_changed_input_is_the_oracles(family, kv_cache, monkeypatch):
    sizes = (family.tokens // 2, 1, family.tokens // 5, family.tokens - 1)
    rows = [random_rows(family.tokens, n, n) for n in sizes]
    dictate(monkeypatch, "dense", *rows[:2], "reuse", *rows[2:])
    run, oracle = Run(family, replace(SETTINGS, kv_cache=kv_cache)), Oracle(family)
    for step, active in enumerate([range(family.tokens), *rows[:2], [], *rows[2:]]):
        # the prompt changes in mid-run: its rows are fresh in every call
        call = family.call(step, step % 2)
        wanted, got = family.video(oracle.call(call, active)), run.video(call)
        assert_close(f"step {step}", wanted, got)
    decided = "dense", "partial", "partial", "reuse", "partial", "partial"
    assert run.kinds == family.kinds(*decided)


def test_keys_are_forecast_for_the_video_alone(family, monkeypatch):
    rows = random_rows(family.tokens, family.tokens // 3, 8)
    dictate(monkeypatch, "dense", "dense", rows)
    run = Run(family, replace(SETTINGS, kv_forecast=1.0))
    oracle, bare = Oracle(family, forecast=True), Oracle(family)
    for step, active in enumerate([range(family.tokens), range(family.tokens), rows]):
        call = family.call(step, 0)
        wanted, held = (family.video(o.call(call, active)) for o in (oracle, bare))
        got = run.video(call)
        assert_close(f"step {step}", wanted, got)
    assert relative_error(held, got) > 1e-3, "holding them would have answered the same"


def test_prompts_never_mix(family, monkeypatch):
    rows = random_rows(family.tokens, family.tokens // 2, 3)
    dictate(monkeypatch, "dense", rows, rows)
    run = Run(family)
    oracles = {"cond": Oracle(family), "uncond": Oracle(family)}
    for step, active in enumerate([range(family.tokens), rows, rows]):
        for prompt, (name, oracle) in enumerate(oracles.items()):
            call = family.call(step, prompt)
            wanted = family.video(oracle.call(call, active))
            assert_close(f"{name}, step {step}", wanted, run.video(call, (name,)))
    assert run.kinds == ["dense"] * 2 + ["partial"] * 4


def test_what_is_underneath_stays_in_force(family, monkeypatch):
    rows = random_rows(family.tokens, family.tokens // 2, 1)
    dictate(monkeypatch, "dense", rows)
    met = {"block": 0, "attention": 0}

    def block(args, extra):
        met["block"] += 1
        if family.reads_input:
            args = {**args, "img": args["img"].clone()}
        # another pack's replacement may write into the tokens, too
        tokens = args[family.name]
        for t in tokens if isinstance(tokens, tuple) else (tokens,):
            t *= 1.25
        # without us, the host's function may be of no use
        alone = met["block"] == 1
        return (family.original(first, extra) if alone else extra["original_block"])(args)

    def attention(func, *args, **kwargs):
        met["attention"] += 1
        return func(*args, **kwargs)

    first = family.hooks[0]
    options = {
        "patches_replace": {"dit": {first: block}},
        "optimized_attention_override": attention,
    }
    run, call = Run(family), family.call(0, 0)
    wanted = family.video(call.run(family.network, dict(options)))
    attended = met["attention"]
    for i in range(2):
        assert_close(f"call {i}", wanted, run.video(call, options=options))
    assert met["block"] == 3
    assert met["attention"] == 3 * attended > 0


def test_an_exception_leaves_nothing(family, monkeypatch):
    rows = random_rows(family.tokens, family.tokens // 2, 1)
    dictate(monkeypatch, "dense", rows, "dense")
    call = family.call(0, 0)
    before = living_tensors()
    run = Run(family)
    run.video(call)

    def broken(args, extra):
        raise KeyboardInterrupt

    options = {"patches_replace": {"dit": {family.hooks[-1]: broken}}}
    with pytest.raises(KeyboardInterrupt):
        run.call(call, options=options)
    run.session.close()
    gc.collect()
    left = [t for key, t in living_tensors().items() if key not in before]
    assert left == []
    assert_same("afterwards", plain(family, call), family.video(call.run(family.network, {})))


def test_a_block_that_ran_out_of_memory_is_not_run_on_what_it_wrote(family, monkeypatch):
    dictate(monkeypatch, "dense", "dense")
    run, call = Run(family), family.call(0, 0)
    run.video(call)
    left = [1]

    # the network's own block fails once, behind what it has written
    network, call_next = family.network, family.call(1, 0)
    kind, index = family.hooks[0]
    names = (f"{kind}s", "visual_transformer_blocks", "transformer_blocks", "blocks")
    first = next(found for n in names if (found := getattr(network, n, None)) is not None)[index]
    hook = first.register_forward_hook(lambda *_: _fail(left))
    try:
        got = run.video(call_next)
    finally:
        hook.remove()
    assert not left
    assert_close("answer", plain(family, call_next), got)


def test_a_prompt_of_another_length_starts_afresh(monkeypatch):
    family, longer = (FAMILIES[f"hunyuan video{n}"]() for n in ("", ", no double blocks"))
    rows = random_rows(family.tokens, 7, 1)
    dictate(monkeypatch, "dense", rows, rows)
    run, long = Run(family), longer.call(1, 0)
    run.video(family.call(0, 0))
    assert_same("longer", plain(family, long), run.video(long))
    assert_close("longer again", plain(family, long), run.video(long))
    assert run.kinds == ["dense", "dense", "partial"]


def test_block_causal_attention_is_refused_before_the_network_is_called():
    family = FAMILIES["hunyuan video"]()
    options = ForcingOptions(chunk_frames=1, attention="block_causal")
    first, *_ = forcing_schedule(3, 10, options)
    forcing = ForcingCall(first, (1.0,) * 3, options)
    with pytest.raises(UnsupportedModelError, match="takes a noise level per frame"):
        Run(family).call(family.call(0, 0), forcing=forcing)


@pytest.mark.parametrize(
    "name",
    ["hunyuan video, no single blocks", "hunyuan video, no double blocks", "minimax h3",
     "ltx video", "ltx 2"],
)  # fmt: skip
def test_without_the_copy_the_residual_is_wrong(name, monkeypatch):
    """The trap that `writes_input` is for: with it left out, the tests above fail. Of a view there
    is a copy anyway, so the first block is given a tensor of its own."""
    family = FAMILIES[name]()
    embed = getattr(family.network, "_tokens", None)
    if embed is not None:

        def own(latent):
            tokens, grid = embed(latent)
            return tokens.contiguous(), grid

        monkeypatch.setattr(family.network, "_tokens", own)
    bare = tuple(replace(r, writes_input=False) for r in family.adapter.runs)
    monkeypatch.setattr(registry, "ADAPTERS", (replace(family.adapter, runs=bare),))
    dictate(monkeypatch, "dense", "reuse")
    cached, call = Run(family), family.call(0, 0)
    cached.video(call)
    assert not cached.residual().any()
    assert relative_error(plain(family, call), cached.video(call)) > 0.1


@pytest.mark.parametrize("times", [0, 2], ids=["none", "twice"])
def test_an_adapter_that_describes_no_blocks_is_no_adapter(times):
    with pytest.raises(ValueError, match="give one or more, each with a hook of its own"):
        replace(HUNYUAN_VIDEO, runs=HUNYUAN_VIDEO.runs[:1] * times)
