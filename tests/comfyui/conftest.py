"""Tests against the real ComfyUI: they run when COMFYUI_PATH names a checkout, and skip otherwise.

Take ComfyUI from the `host` fixture, or import it inside the test, never at the top of a test file.
"""

import importlib
import os

import pytest
import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.answer_runs import nothing_left
from motioncache_pack.tests.support.node_runs import kept, pack, supported
from safetensors.torch import save_file

__all__ = ["kept", "nothing_left", "pack", "supported"]

REASON = "COMFYUI_PATH is not set: give it the folder of a ComfyUI checkout to run this test"

# before any test can import comfy: the CPU switch is read when comfy.model_management loads
if os.environ.get("COMFYUI_PATH"):
    fake_comfy.harness.use_real_comfy(os.environ["COMFYUI_PATH"])


def pytest_collection_modifyitems(items):
    if os.environ.get("COMFYUI_PATH"):
        return
    for item in items:
        if item.get_closest_marker("comfy"):
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def host():
    """The real ComfyUI."""
    found = fake_comfy.harness.Host()
    assert not found.is_standin, "the stand-in is installed as comfy in a run with COMFYUI_PATH"
    return found


@pytest.fixture(scope="session")
def standin():
    """The stand-in beside the real one: under its own name, not as `comfy` in `sys.modules`."""
    return fake_comfy.harness.Host(fake_comfy.comfy.__name__)


@pytest.fixture(scope="session")
def comfy_version(host):
    import comfyui_version

    return tuple(int(part) for part in comfyui_version.__version__.split(".")[:3])


@pytest.fixture
def current(comfy_version):
    """For what older versions are known to do differently."""
    if comfy_version < (0, 23):
        pytest.skip(f"the stand-in follows ComfyUI 0.33, this is {comfy_version}")


@pytest.fixture
def same(standin, host):
    """`same(facts)` compares what `facts` finds on both hosts and returns it."""

    def compare(facts):
        expected, got = facts(host), facts(standin)
        assert got == expected
        return got

    return compare


class Toy(torch.nn.Module):
    """Velocity from x, t and the text: element by element, so that equal inputs give equal bits."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None,
                transformer_options=None, **kwargs):  # fmt: skip
        shape = (-1, 1, 1, 1, 1)
        out = self.weight * x + timestep.reshape(shape) / 1000 + context[:, 0, 0].reshape(shape)
        return out / (1 + out.abs())


@pytest.fixture
def toy():
    """`toy(host)`: a patcher around the same closed-form network."""
    return lambda host: host.patcher(Toy())


@pytest.fixture(scope="session")
def tiny_state_dict():
    torch.manual_seed(0)
    return DemoWan(dim=128, ffn_dim=256, num_layers=2).state_dict()


@pytest.fixture
def tiny(tiny_state_dict):
    """`tiny(host)`: the same small Wan, as the host's WanModel or as the pack's own network."""
    previous = fake_comfy.set_network_factory(DemoWan.from_state_dict)
    yield lambda host: host.sd.load_diffusion_model_state_dict(dict(tiny_state_dict))
    fake_comfy.set_network_factory(previous)


@pytest.fixture
def run():
    """`run(host, patcher, ...)`: a short seeded generation."""

    def go(host, patcher, negative=None, **kwargs):
        return host.run(patcher, host.text(1), negative or host.text(2), **kwargs)

    return go


@pytest.fixture
def write(request, host, tmp_path, monkeypatch):
    """`write(name, state_dict)` puts a file where ComfyUI looks for diffusion models, or for what
    the test's module calls its `FOLDER`."""
    folder_paths = importlib.import_module("folder_paths")
    kind = getattr(request.module, "FOLDER", "diffusion_models")
    kinds = folder_paths.folder_names_and_paths
    monkeypatch.setitem(kinds, kind, ([str(tmp_path)], {".safetensors"}))
    # the host keeps a list of files by the time a folder last changed
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return lambda name, sd, **kwargs: save_file(sd, tmp_path / name, **kwargs)
