"""The pack at work where Triton is absent, broken, too old or something else: as without it."""

import os
import subprocess
import sys

import pytest
import torch

# a triton.py each, or None for no Triton at all; and the reason that the pack gives
STUBS = {
    "absent": (None, "Triton is not installed"),
    "library missing": ("raise OSError('DLL load failed')", "cannot be imported (OSError: DLL"),
    "crashing": ("raise SystemError('bad build')", "cannot be imported (SystemError: bad build"),
    "part missing": ("import motioncache_no_such_module", "ModuleNotFoundError"),
    "no jit": ("__version__ = '3.6.0'", "is not OpenAI Triton"),
    "empty": ("", "is not OpenAI Triton"),
    "too old": ("__version__ = '3.2.0'\njit = lambda f: f", "Triton 3.2.0 is older than 3.3"),
    # looks usable until the first kernel is built
    "no language": ("__version__ = '3.6.0'\njit = lambda f: f", "3.6.0"),
}

RUN = """
import asyncio, importlib, importlib.util, sys
from dataclasses import replace

class Without:
    # a finder that finds everything but Triton
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == "triton"
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

root, answer, absent = sys.argv[1:]
if absent == "True":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
spec = importlib.util.spec_from_file_location(
    "motioncache_pack", root + "/__init__.py", submodule_search_locations=[root]
)
pack = sys.modules["motioncache_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
importlib.import_module("motioncache_pack.tests.support.fake_comfy").install()
extension = asyncio.run(pack.comfy_entrypoint())
assert len(asyncio.run(extension.get_node_list())) > 3

import torch
from motioncache_pack import kernels
assert "triton" not in sys.modules, "importing the pack imported Triton"

# as on a CUDA device: the automatic choice tries Triton first
kernels.registry._backends["triton"] = replace(kernels.triton.BACKEND, automatic_on=None)
from motioncache_pack.tests.test_useless_triton import cached_run
torch.save(cached_run(kernels), answer)
print([info.detail for info in kernels.list_backends() if info.name == "triton"][0])
"""


def cached_run(ops):
    """Latents of a short run with partial evaluations, and what each call was."""
    from motioncache_pack.motioncache_core import MotionCacheSettings
    from motioncache_pack.motioncache_core.demo.sampler import SampleOptions, cached_sample
    from motioncache_pack.motioncache_core.demo.wan import DemoWan

    torch.set_num_threads(1)
    torch.manual_seed(4)
    network = DemoWan(ffn_dim=64, num_layers=2, text_dim=8, freq_dim=16).eval()
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    text, noise = torch.randn(2, 1, 3, 8), torch.randn(1, 16, 4, 4, 6)
    settings = MotionCacheSettings(
        warmup_steps=2, uniform_updates=1, reuse_threshold=0.12, motion_sensitivity=0.9,
        agreement=0.0, min_update_ratio=0.02, forecast=0.5,
    )  # fmt: skip
    latents, trace = cached_sample(
        network, text[0], text[1], noise, SampleOptions(steps=12), settings, ops
    )
    return latents, [call.kind for e in trace.evaluations for call in e.calls]


@pytest.fixture(scope="module")
def expected():
    from motioncache_pack import kernels

    with kernels.use_backend("reference"):
        latents, kinds = cached_run(kernels)
    assert set(kinds) == {"dense", "partial", "reuse"}, kinds
    return latents, kinds


@pytest.mark.parametrize("stub", STUBS)
def test_the_pack_works_as_without_triton(stub, tmp_path, root, expected):
    source, reason = STUBS[stub]
    if source is not None:
        (tmp_path / "triton.py").write_text(source)
    # with the interpreter on, it is Triton's own state that decides, and not the device
    env = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1"}
    env.pop("MOTIONCACHE_BACKEND", None)
    answer = tmp_path / "answer.pt"
    done = subprocess.run(
        [sys.executable, "-c", RUN, root.as_posix(), str(answer), str(source is None)],
        env=env, capture_output=True, text=True, cwd=root.anchor, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout
    latents, kinds = torch.load(answer)
    assert kinds == expected[1]
    assert torch.equal(latents, expected[0])
