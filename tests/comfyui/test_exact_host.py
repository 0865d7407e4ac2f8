"""The engine on ComfyUI's own WanModel: reusing changes nothing that it does not mean to change."""

import functools

import pytest
import torch
from motioncache_pack.motioncache_core.models.registry import find_adapter
from motioncache_pack.motioncache_core.settings import MotionCacheSettings
from motioncache_pack.tests.core.oracle import WholeClip, random_rows
from motioncache_pack.tests.core.runs import Run, dictate

pytestmark = pytest.mark.comfy

TEXT, FRAMES, SIDE = 32, 3, 8
TOKENS = FRAMES * 16
TOLERANCE = 1e-5


@functools.cache
def wan(model_type="t2v", **changes):
    """A WanModel with random weights, those that start at 0 or 1 included."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    sizes = {
        "dim": 128, "ffn_dim": 192, "num_heads": 2, "num_layers": 3, "text_dim": TEXT,
        "freq_dim": 64, "in_dim": 36 if model_type == "i2v" else 16, "out_dim": 16, **changes,
    }  # fmt: skip
    torch.manual_seed(5)
    model = WanModel(
        model_type=model_type, dtype=torch.float32, operations=comfy.ops.disable_weight_init,
        **sizes,
    )  # fmt: skip
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.5, std=scale)
    return model.eval().requires_grad_(False)


def inputs(kind, seed, batch=1):
    """Latents, timesteps, text states and further arguments; later seeds are less noisy."""
    rng, fixed = (torch.Generator().manual_seed(s) for s in (seed, 99))
    channels = 36 if kind == "i2v" else 16
    x = torch.randn(batch, channels, FRAMES, SIDE, SIDE, generator=rng)
    t = torch.full((batch,), 990.0 - 60 * seed)
    if kind == "frames":
        t = t[:, None] - 110 * torch.arange(FRAMES)
    text = torch.randn(batch, 6, TEXT, generator=fixed)
    extra = {"clip_fea": torch.randn(batch, 257, 1280, generator=fixed)} if kind == "i2v" else {}
    return x, t, text, extra


def network(kind):
    return wan("i2v") if kind == "i2v" else wan()


def bare(model, given):
    x, t, text, extra = given
    return model(x, t, text, **extra)


def through(run, given, **kwargs):
    x, t, text, extra = given
    return run.call(x, t, text, **extra, **kwargs)


def close(got, wanted):
    # an output near zero would be close to anything
    assert wanted.std() > 0.1
    assert (got - wanted).abs().max() <= TOLERANCE * max(1.0, wanted.abs().max().item())


kinds = pytest.mark.parametrize("kind", ["t2v", "i2v", "frames"])
pairs = pytest.mark.parametrize(("kind", "batch"), [("t2v", 2), ("i2v", 1), ("frames", 2)])


def test_the_adapter_knows_the_class(host):
    adapter, declined = find_adapter(wan())
    assert (adapter.name, declined) == ("Wan", None)
    assert adapter.facts(wan()).image_to_video is False
    assert adapter.facts(wan("i2v")).image_to_video is True
    assert adapter.facts(wan()).row_work == 6 * 128**2 + 2 * 128 * 192


def test_threshold_zero_is_bit_identical(host):
    kind = "t2v"
    run = Run(network(kind), MotionCacheSettings(reuse_threshold=0.0))
    for seed in range(3):
        given = inputs(kind, seed)
        assert torch.equal(through(run, given), bare(network(kind), given))
    assert run.kinds == []


@pairs
def test_dense_calls_are_bit_identical(host, kind, batch, monkeypatch):
    dictate(monkeypatch, "dense", "dense")
    run = Run(network(kind))
    for seed in range(2):
        given = inputs(kind, seed, batch)
        assert torch.equal(through(run, given), bare(network(kind), given))
    assert run.kinds == ["dense", "dense"]


@pairs
def test_all_rows_through_the_partial_path_equal_dense(host, kind, batch, monkeypatch):
    dictate(monkeypatch, "dense", range(TOKENS))
    run = Run(network(kind))
    through(run, inputs(kind, 0, batch))
    given = inputs(kind, 1, batch)
    close(through(run, given), bare(network(kind), given))
    assert run.kinds == ["dense", "partial"]


@pytest.mark.parametrize(("kind", "count"), [("t2v", 1), ("i2v", 17), ("frames", 40)])
def test_a_subset_of_an_unchanged_input_equals_dense(host, kind, count, monkeypatch):
    dictate(monkeypatch, "dense", random_rows(TOKENS, count, seed=count))
    run, given = Run(network(kind)), inputs(kind, 2)
    through(run, given)
    close(through(run, given), bare(network(kind), given))
    assert run.trace.calls()[1].computed == count


@kinds
def test_changing_inputs_equal_the_whole_clip_with_stored_keys(
    host, kind, monkeypatch, comfy_version
):
    if comfy_version < (0, 5):
        pytest.skip("the oracle needs block_index, which this ComfyUI does not tell")
    rows = [list(range(TOKENS)), *(random_rows(TOKENS, n, n) for n in (20, 5, 33))]
    dictate(monkeypatch, "dense", *rows[1:])
    run, oracle = Run(network(kind)), WholeClip(network(kind))
    for seed, active in enumerate(rows):
        x, t, text, extra = given = inputs(kind, seed)
        wanted = oracle.call(x, t, text, active, **extra)
        close(through(run, given), wanted)
        assert seed == 0 or (wanted - bare(network(kind), given)).abs().max() > 100 * TOLERANCE
    assert run.kinds == ["dense", "partial", "partial", "partial"]


@kinds
def test_two_conditions_in_one_batch_equal_two_calls(host, kind, monkeypatch):
    plan = ["dense", random_rows(TOKENS, 12, 3), "reuse", random_rows(TOKENS, 30, 4)]
    dictate(monkeypatch, *plan, *plan)
    model = network(kind)
    together, apart = Run(model), Run(model)
    givens = [inputs(kind, seed, batch=2) for seed in range(4)]
    outs = []
    for x, t, text, extra in givens:
        x[1] = x[0]
        outs.append(together.call(x, t, text, branches=("uncond", "cond"), **extra))
    for both, (x, t, text, extra) in zip(outs, givens, strict=True):
        for i, branch in enumerate(("uncond", "cond")):
            one = slice(i, i + 1)
            single = {k: v[one] for k, v in extra.items()}
            close(both[one], apart.call(x[one], t[one], text[one], branches=(branch,), **single))
    assert together.kinds == ["dense", "partial", "reuse", "partial"]
    assert apart.kinds == [k for k in together.kinds for _ in range(2)]
    assert together.decided == apart.decided


def test_reuse_runs_no_block(host, monkeypatch):
    dictate(monkeypatch, "dense", "reuse")
    calls, model = [], wan()
    hooks = [b.register_forward_hook(lambda *_: calls.append(1)) for b in model.blocks]
    try:
        run = Run(model)
        through(run, inputs("t2v", 0))
        through(run, inputs("t2v", 1))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(calls) == 3
    assert [c.blocks for c in run.trace.calls()] == [3, 0]
