"""Kandinsky 5: which networks are taken, and why its blocks are called by us."""

from dataclasses import replace

from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.motioncache_core.engine.block_probe import BlockProbe
from motioncache_pack.motioncache_core.models import registry
from motioncache_pack.motioncache_core.models.kandinsky import KANDINSKY
from motioncache_pack.tests.core.runs import Run, dictate
from motioncache_pack.tests.support.assert_close import assert_close, assert_same
from motioncache_pack.tests.support.families import FAMILIES
from motioncache_pack.tests.support.toy_kandinsky import WIDTH, Kandinsky5


def test_images_and_sparse_attention_are_told_apart():
    assert registry.find_adapter(Kandinsky5()) == (KANDINSKY, None)
    image, sparse = Kandinsky5(), Kandinsky5()
    image.model_dim = 2560

    def forward(x, sparse_params=None):
        return x

    sparse.visual_transformer_blocks[0].forward = forward
    for network, why in ((image, "makes images"), (sparse, "sparse attention")):
        adapter, reason = registry.find_adapter(network)
        assert adapter is KANDINSKY and why in reason
        assert code_of(reason) == "model_variant"


def test_work_of_a_block():
    facts = KANDINSKY.facts(Kandinsky5())
    assert (facts.blocks, facts.heads, facts.key_width) == ((3,), 2, WIDTH)
    assert facts.row_work == 6 * WIDTH**2 + 2 * WIDTH * 2 * WIDTH


def test_the_hosts_function_for_a_block_cannot_run_it(monkeypatch):
    family = FAMILIES["kandinsky 5"]()
    (run,) = KANDINSKY.runs
    bare = replace(KANDINSKY, runs=(replace(run, call=None),))
    monkeypatch.setattr(registry, "ADAPTERS", (bare,))
    dictate(monkeypatch, "dense")
    call = family.call(0, 0)
    run = Run(family.network)
    assert_same("answer", call.run(family.network, {}), run.call(call.x, call.t, call.context))
    assert code_of(run.trace.reason) == "hooks_failed"
    assert "unexpected keyword argument 'x'" in run.trace.reason


def test_a_pack_underneath_gets_a_function_that_can(monkeypatch):
    """Alone, its replacement of a block would end the run."""
    family = FAMILIES["kandinsky 5"]()
    call, met = family.call(0, 0), []

    def replacement(args, extra):
        met.append(sorted(args))
        return extra["original_block"](args)

    options = {"patches_replace": {"dit": {("double_block", 1): replacement}}}
    dictate(monkeypatch, "dense")
    got = Run(family.network).call(call.x, call.t, call.context, options=options)
    assert_same("answer", call.run(family.network, {}), got)
    assert met == [["context", "freqs", "time_embed", "transformer_options", "x"]]


def test_calibration_calls_the_blocks_too():
    family = FAMILIES["kandinsky 5"]()
    call = family.call(0, 0)
    probe = BlockProbe(KANDINSKY, KANDINSKY.facts(family.network), family.network)
    got = call.run(family.network, probe.options({}))
    assert_close("answer", call.run(family.network, {}), got, 0.0)
    assert probe.residual is not None and probe.residual.shape == (1, family.tokens, WIDTH)
