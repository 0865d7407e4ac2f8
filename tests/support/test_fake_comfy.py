"""The stand-in on its own: wrapper order, batching, clone rules, life cycle, node schemas."""

import sys
from itertools import pairwise

import pytest
import torch
from motioncache_pack.tests.support import fake_comfy

WRAPPERS = ("OUTER_SAMPLE", "PREPARE_SAMPLING", "SAMPLER_SAMPLE", "PREDICT_NOISE",
            "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL")  # fmt: skip


@pytest.fixture
def host():
    return fake_comfy.harness.Host(fake_comfy.comfy.__name__)


class Mean(torch.nn.Module):
    """Velocity from x, t and the text's mean, cheap and different for each condition."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None,
                transformer_options=None, **kwargs):  # fmt: skip
        shape = (-1, 1, 1, 1, 1)
        text = context.mean(dim=(1, 2)).reshape(shape)
        return self.weight * x + timestep.reshape(shape) / 1000 + 10 * text


def run(host, patcher, **kwargs):
    return host.run(patcher, host.text(1), kwargs.pop("negative", host.text(2)), **kwargs)


def watch(host, patcher, kind, note, key="test"):
    """`note(arguments)` before every call of a place in the host's chain of wrappers."""

    def wrapper(executor, *args, **kwargs):
        note(args)
        return executor(*args, **kwargs)

    kind = getattr(host.patcher_extension.WrappersMP, kind)
    patcher.add_wrapper_with_key(kind, key, wrapper)


def test_wrappers_run_in_the_documented_order_and_the_first_added_is_the_outermost(host):
    patcher, seen = host.patcher(Mean()), []
    for name in WRAPPERS:
        watch(host, patcher, name, lambda _, name=name: seen.append(name))
    run(host, patcher, steps=2)
    assert seen == [*WRAPPERS[:3], *WRAPPERS[3:], *WRAPPERS[3:]]
    patcher, seen = host.patcher(Mean()), []
    for key in ("first", "second"):
        watch(host, patcher, "APPLY_MODEL", lambda _, key=key: seen.append(key), key)
    run(host, patcher, steps=1)
    assert seen == ["first", "second"]


def batches(host, **kwargs):
    patcher, seen = host.patcher(Mean()), []

    def note(args):
        options = args[5]
        seen.append((options["cond_or_uncond"], args[0].shape[0]))
        assert len(set(options["uuids"])) == len(options["uuids"])

    watch(host, patcher, "DIFFUSION_MODEL", note)
    out = run(host, patcher, steps=1, **kwargs)
    return seen, out


def test_conditions_that_may_share_a_batch_do_and_uncond_comes_first(host, monkeypatch):
    seen, together = batches(host)
    assert seen == [([1, 0], 2)]
    assert batches(host, cfg=1.0)[0] == [([0], 1)]
    # texts of different length
    assert batches(host, negative=host.text(2, tokens=8))[0] == [([0], 1), ([1], 1)]
    host.run_short_of_memory(monkeypatch)
    seen, apart = batches(host)
    assert seen == [([1], 1), ([0], 1)]
    torch.testing.assert_close(together, apart)


def test_options_are_new_for_each_call_and_leaves_are_shared(host):
    patcher, leaf, seen = host.patcher(Mean()), object(), []
    patcher.model_options["transformer_options"]["mine"] = {"leaf": leaf, "calls": []}

    def note(args):
        mine = args[5]["mine"]
        mine["calls"].append(1)
        seen.append((mine["leaf"] is leaf, len(mine["calls"])))

    watch(host, patcher, "DIFFUSION_MODEL", note)
    run(host, patcher, steps=3)
    assert seen == [(True, 1)] * 3
    assert patcher.model_options["transformer_options"]["mine"]["calls"] == []


def test_clone_copies_structure_and_shares_leaves(host):
    patcher, leaf = host.patcher(Mean()), object()
    patcher.model_options["transformer_options"]["mine"] = {"leaf": leaf}
    patcher.add_wrapper_with_key("apply_model", "a", print)
    clone = patcher.clone()
    clone.model_options["transformer_options"]["mine"]["more"] = 1
    clone.add_wrapper_with_key("apply_model", "a", print)
    clone.set_model_patch_replace(print, "dit", "double_block", 0)
    assert clone.model is patcher.model
    assert clone.model_options["transformer_options"]["mine"]["leaf"] is leaf
    assert patcher.model_options == {"transformer_options": {"mine": {"leaf": leaf}}}
    assert patcher.get_wrappers("apply_model", "a") == [print]


def test_interrupt_cleans_up_and_is_raised_once(host):
    patcher, cleaned = host.patcher(Mean()), []
    patcher.add_callback_with_key("on_cleanup", "test", cleaned.append)
    host.model_management.interrupt_current_processing()
    with pytest.raises(host.model_management.InterruptProcessingException):
        run(host, patcher)
    assert cleaned == [patcher]
    assert patcher.model.current_patcher is None
    assert torch.isfinite(run(host, patcher)).all()


def test_object_patches_are_in_for_the_run_and_out_for_the_next_clone(host):
    patcher = host.patcher(Mean())
    original = patcher.get_model_object("model_sampling")
    patched = patcher.clone()
    other = host.model_sampling.ModelSampling()
    patched.add_object_patch("model_sampling", other)
    run(host, patched, steps=1)
    assert patcher.model.model_sampling is other
    assert patcher.get_model_object("model_sampling") is original
    run(host, patcher, steps=1)
    assert patcher.model.model_sampling is original


def test_euler_is_exact_for_a_constant_velocity(host):
    class Constant(Mean):
        def forward(self, x, *args, **kwargs):
            return torch.ones_like(x)

    latent_format = host.latent_formats.Wan21()
    noise = host.sample.prepare_noise(host.latent(), 7)
    out = run(host, host.patcher(Constant()), steps=4)
    torch.testing.assert_close(out, latent_format.process_out(noise - 1.0))


def test_an_ancestral_step_keeps_the_noise_level(host):
    """Latents of pure noise are the noise level times normal numbers after every step."""
    sample = host.samplers.k_diffusion_sampling.sample_euler_ancestral
    noise, sigmas, seen = torch.randn(1, 40_000), torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0]), []

    def clean(x, sigma, **_):
        seen.append(float(x.std() / sigma))
        return torch.zeros_like(x)

    out = sample(clean, noise, sigmas, {"seed": 1})
    assert seen == pytest.approx([1.0] * 4, abs=0.02) and not out.any()
    # whoever gives the noise is asked for it once a step that ends above 0
    drawn = []
    sample(clean, noise, sigmas, noise_sampler=lambda *at: drawn.append(at) or noise)
    assert drawn == list(pairwise(sigmas))[:-1]


def test_heun_evaluates_twice_but_for_the_last_step(host):
    patcher, seen = host.patcher(Mean()), []
    watch(host, patcher, "PREDICT_NOISE", seen.append)
    run(host, patcher, steps=6, sampler="heun")
    assert len(seen) == 11


def test_a_network_that_runs_its_wrappers_is_left_alone(host):
    network, seen = Mean(), []
    network.runs_wrappers = True
    patcher = host.patcher(network)
    watch(host, patcher, "DIFFUSION_MODEL", seen.append)
    run(host, patcher, steps=1)
    assert seen == []


def test_cond_with_a_percent_range_leaves_calls_out(host):
    patcher, seen, negative = host.patcher(Mean()), [], host.text(2)
    watch(host, patcher, "APPLY_MODEL", lambda args: seen.append(args[5]["cond_or_uncond"]))
    negative[0][1]["end_percent"] = 0.5
    run(host, patcher, steps=4, negative=negative)
    assert seen[0] == [1, 0]
    assert seen[-1] == [0]


def test_state_dict_loading_needs_a_factory(host):
    previous = fake_comfy.set_network_factory(None)
    try:
        with pytest.raises(RuntimeError, match="set_network_factory"):
            host.sd.load_diffusion_model_state_dict({})
        fake_comfy.set_network_factory(lambda sd: sd["network"])
        network = Mean()
        patcher = host.sd.load_diffusion_model_state_dict({"network": network})
        assert patcher.get_model_object("diffusion_model") is network
    finally:
        fake_comfy.set_network_factory(previous)


def test_schema_lists_types_defaults_and_ranges():
    io = fake_comfy.comfy_api.latest.io

    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [
                io.Model.Input("model", tooltip="a model"),
                io.Float.Input("amount", default=0.5, min=0.0, max=1.0, advanced=True),
                io.Combo.Input("mode", options=["a", "b"], default="a"),
                io.Custom("MINE").Input("mine", optional=True),
            ]
            return io.Schema(node_id="Node", inputs=inputs, outputs=[io.Model.Output()])

        @classmethod
        def execute(cls, model, amount, mode, mine=None):
            return io.NodeOutput(model, ui={"text": (mode,)})

    info = Node.GET_NODE_INFO_V1()
    assert info["input_order"] == {"required": ["model", "amount", "mode"], "optional": ["mine"]}
    assert info["input"]["required"]["amount"] == (
        "FLOAT",
        {"default": 0.5, "min": 0.0, "max": 1.0, "advanced": True},
    )
    assert Node.RETURN_TYPES == ["MODEL"]
    assert Node.execute("m", 1.0, "b").result == ("m",)
    with pytest.raises(TypeError):
        io.Float.Input("amount", minimum=0.0)


def test_install_puts_the_modules_in_and_undo_takes_them_out(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    roots = ("comfy", "comfy_api", "folder_paths")
    for name in [n for n in sys.modules if n.split(".")[0] in roots]:
        monkeypatch.delitem(sys.modules, name)
    undo = fake_comfy.install()
    try:
        import comfy.samplers
        from comfy_api.latest import io

        assert comfy.samplers is fake_comfy.comfy.samplers
        assert io is fake_comfy.comfy_api.latest.io
    finally:
        undo()
    assert not any(n.split(".")[0] in roots for n in sys.modules)
