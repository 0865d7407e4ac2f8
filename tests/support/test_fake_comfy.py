"""What of the stand-in is not compared with the real ComfyUI: `tests/comfyui/test_contract*.py`."""

import sys
from itertools import pairwise

import pytest
import torch
from motioncache_pack.tests.support import fake_comfy


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


def test_a_network_that_runs_its_wrappers_is_left_alone(host):
    network, seen = Mean(), []
    network.runs_wrappers = True
    patcher = host.patcher(network)
    kind = host.patcher_extension.WrappersMP.DIFFUSION_MODEL
    patcher.add_wrapper_with_key(kind, "test", lambda run, *args: seen.append(1) or run(*args))
    host.run(patcher, host.text(1), host.text(2), steps=1)
    assert seen == []


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
