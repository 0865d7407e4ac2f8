"""What people put on a model beside MotionCache, in the real ComfyUI on a CPU: ComfyUI's own LoRA
loader, fp8 weights and partial loading, and stand-ins for what needs a GPU or another pack."""

from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core.report.report_json import summary
from motioncache_pack.tests.support.node_runs import decisions, marks, small_weights

pytestmark = pytest.mark.comfy

# of the largest value: the same numbers in another order of operations
CLOSE = 1e-4
FP8 = torch.float8_e4m3fn
ATTENTION = "optimized_attention_override"


def load(pack, weights=None, **options):
    """A small Wan of these weights through ComfyUI's loader."""
    weights = dict(small_weights()) if weights is None else weights
    return pack.host.sd.load_diffusion_model_state_dict(weights, model_options=options)


def linears(weights):
    """The weight matrices of the blocks, by name."""
    return {k: w for k, w in weights.items() if k.startswith("blocks.") and w.ndim == 2}


def attention(pack, monkeypatch):
    """Two overrides, one on the other, as Sage and a patch of it: the outer one calls the inner."""
    calls = []

    def inner(func, *args, **kwargs):
        calls.append("inner")
        return func(*args, **kwargs)

    def outer(func, *args, **kwargs):
        calls.append("outer")
        return inner(func, *args, **kwargs)

    outer.__qualname__ = "patched.sage_attention"

    def put(model):
        clone = model.clone()
        clone.model_options.setdefault("transformer_options", {})[ATTENTION] = outer
        return clone

    # self- and cross-attention, each through both
    return SimpleNamespace(build=lambda: load(pack), put=put, plain=lambda: load(pack),
                           calls=calls, per_block=4)  # fmt: skip


def lora_file():
    rng = torch.Generator().manual_seed(4)
    found = {}
    for key, weight in linears(small_weights()).items():
        name = f"diffusion_model.{key.removesuffix('.weight')}"
        found[f"{name}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=rng) / 12
        found[f"{name}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=rng) / 12
    return found


def merged(strength):
    weights, file = dict(small_weights()), lora_file()
    for key in linears(weights):
        name = f"diffusion_model.{key.removesuffix('.weight')}"
        up, down = file[f"{name}.lora_B.weight"], file[f"{name}.lora_A.weight"]
        weights[key] = weights[key] + strength * (up @ down)
    return weights


def lora(pack, monkeypatch):
    def put(model):
        return pack.host.sd.load_lora_for_models(model, None, lora_file(), 0.7, 0)[0]

    return SimpleNamespace(build=lambda: load(pack), put=put,
                           plain=lambda: load(pack, merged(0.7)))  # fmt: skip


def fp8(pack, monkeypatch):
    def build():
        model = load(pack, dtype=FP8)
        assert model.model.diffusion_model.blocks[0].self_attn.q.weight.dtype == FP8
        return model

    def plain():
        # ComfyUI leaves the patch embedding in 32 bits
        loaded = build().model.diffusion_model.state_dict()
        return load(pack, {k: w.float() for k, w in loaded.items()})

    return SimpleNamespace(build=build, plain=plain)


def scaled_fp8(pack, monkeypatch):
    weights, plain = dict(small_weights()), dict(small_weights())
    for key, weight in linears(small_weights()).items():
        scale = weight.abs().amax() / 448
        weights[key] = (weight / scale).to(FP8)
        weights[key.removesuffix("weight") + "scale_weight"] = scale
        plain[key] = weights[key].float() * scale
    weights["scaled_fp8"] = torch.zeros(2, dtype=FP8)
    return SimpleNamespace(build=lambda: load(pack, dict(weights)), plain=lambda: load(pack, plain))


def packed(weight):
    """Whole numbers of 8 bits and a scale for every row."""
    scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
    return (weight.float() / scale).round().to(torch.int8), scale


def quantised(pack, monkeypatch):
    """As a loader of GGUF files builds a model: linear layers that have no `weight` to read, and
    unpack theirs in every call."""
    calls = []
    plain_ops = pack.host.ops.disable_weight_init

    class Ops(plain_ops):
        class Linear(plain_ops.Linear):
            def _load_from_state_dict(self, state_dict, prefix, *args):
                codes, scale = packed(state_dict.pop(f"{prefix}weight"))
                self.weight = None
                self.register_buffer("codes", codes, persistent=False)
                self.register_buffer("scale", scale, persistent=False)
                super()._load_from_state_dict(state_dict, prefix, *args)

            def forward(self, x):
                if getattr(self, "counted", False):
                    calls.append(1)
                weight = self.codes.to(x.dtype) * self.scale.to(x.dtype)
                return torch.nn.functional.linear(x, weight, self.bias)

    def build():
        model = load(pack, custom_operations=Ops)
        blocks = model.model.diffusion_model.blocks
        for module in blocks.modules():
            module.counted = isinstance(module, Ops.Linear)
        assert blocks[0].self_attn.q.weight is None
        return model

    weights = dict(small_weights())
    for key, weight in weights.items():
        if weight.ndim == 2:
            codes, scale = packed(weight)
            weights[key] = codes * scale
    return SimpleNamespace(build=build, plain=lambda: load(pack, weights), calls=calls,
                           per_block=10)  # fmt: skip


def block_swap(pack, monkeypatch):
    """A block has its weights while it runs; before and after they are not there to be read."""
    calls = []

    def swap(block):
        away = {name: p.data for name, p in block.named_parameters()}

        def leave(*_):
            for p in block.parameters():
                p.data = torch.full_like(p.data, torch.nan)

        def fetch(*_):
            calls.append(1)
            for name, p in block.named_parameters():
                p.data = away[name].clone()

        block.register_forward_pre_hook(fetch)
        block.register_forward_hook(leave)
        leave()

    def build():
        model = load(pack)
        for block in model.model.diffusion_model.blocks:
            swap(block)
        return model

    return SimpleNamespace(build=build, plain=lambda: load(pack), calls=calls, per_block=1)


def partly_loaded(pack, monkeypatch):
    """As on a card with too little memory: ComfyUI's layers cast their weights in every call."""
    patcher = pack.host.model_patcher.ModelPatcher
    whole, casts = patcher.load, []

    def little(self, device_to=None, lowvram_model_memory=0, **kwargs):
        return whole(self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False})

    def build():
        monkeypatch.setattr(patcher, "load", little)
        model = load(pack)
        for block in model.model.diffusion_model.blocks:
            linear = block.self_attn.q

            def cast(x, linear=linear, run=linear.forward_comfy_cast_weights):
                casts.append(1)
                return run(x)

            linear.forward_comfy_cast_weights = cast
        return model

    return SimpleNamespace(build=build, plain=lambda: load(pack), calls=casts, per_block=1)


def partly_loaded_with_lora(pack, monkeypatch):
    """The LoRA is then applied in every call, not to the weights."""
    stack = partly_loaded(pack, monkeypatch)
    return SimpleNamespace(**{**vars(stack), "put": lora(pack, monkeypatch).put,
                              "plain": lambda: load(pack, merged(0.7))})  # fmt: skip


STACKS = [
    attention, lora, fp8, scaled_fp8, quantised, block_swap, partly_loaded, partly_loaded_with_lora,
]  # fmt: skip


def count_blocks(model):
    calls = []
    for block in model.model.diffusion_model.blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.fixture(params=STACKS, ids=lambda stack: stack.__name__)
def stack(request, pack, monkeypatch):
    made = request.param(pack, monkeypatch)
    return SimpleNamespace(**{"put": lambda model: model, "calls": None, **vars(made)})


def test_a_stack_changes_nothing_that_is_reused(pack, stack, monkeypatch):
    model = stack.put(stack.build())
    bare = pack.sample(model, 9)
    off, _ = pack.patch(model, reuse_threshold=0.0)
    assert torch.equal(pack.sample(off, 9), bare)

    for order in ("behind", "before"):
        model = stack.build()
        if order == "behind":
            patched, handle = pack.patch(stack.put(model))
        else:
            patched, handle = pack.patch(model)
            patched = stack.put(patched)
        blocks = count_blocks(patched)
        if stack.calls is not None:
            stack.calls.clear()
        got = pack.sample(patched)
        trace = handle.latest
        assert trace.reason == ""
        assert {"D", "p", "."} <= set(marks(trace))
        assert summary(trace)["totals"]["block_calls"] == len(blocks) > 0
        if stack.calls is not None:
            assert len(stack.calls) == stack.per_block * len(blocks)

    monkeypatch.undo()
    plain, kept = pack.patch(stack.plain())
    wanted = pack.sample(plain)
    assert decisions(kept.latest) == decisions(trace)
    assert (got - wanted).abs().max() <= CLOSE * wanted.abs().max()


def test_the_stacks_differ_from_the_plain_model(pack, monkeypatch):
    # else a stack that does nothing would pass, too
    plain = pack.sample(load(pack), 3)
    for make in (lora, fp8, scaled_fp8, quantised, partly_loaded_with_lora):
        made = make(pack, monkeypatch)
        put = getattr(made, "put", lambda model: model)
        assert not torch.equal(pack.sample(put(made.build()), 3), plain), make.__name__
