"""ComfyUI's own compile node, and what the pack takes for granted of it."""

import inspect
import logging

import pytest
import torch
from motioncache_pack.tests.nodes.test_compiled import STEPS
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.node_runs import one_thread, pack, supported  # noqa: F401

pytestmark = pytest.mark.comfy


def test_the_helper_is_what_the_pack_and_the_stand_in_take_it_for(pack):  # noqa: F811
    from comfy_api.torch_helpers import torch_compile as real
    from motioncache_pack.nodes.host import compiled as compiling

    assert compiling.COMPILE_KEY == real.COMPILE_KEY
    assert compiling.COMPILE_ARGUMENTS == real.TORCH_COMPILE_KWARGS
    standin = fake_comfy.comfy_api.torch_helpers
    names = [
        list(inspect.signature(module.set_torch_compile_wrapper).parameters)
        for module in (real, standin)
    ]
    assert names[0][: len(names[1])] == names[1]
    arguments = []
    for module in (real, standin):
        model = pack.wan()
        module.set_torch_compile_wrapper(
            model=model, backend="eager", keys=["diffusion_model.blocks.0"], dynamic=False
        )
        arguments.append(model.model_options[real.TORCH_COMPILE_KWARGS])
        assert len(model.get_wrappers("apply_model", real.COMPILE_KEY)) == 1
    assert arguments[0] == arguments[1]


def test_the_compile_node_passes_through_in_silence(pack, caplog):  # noqa: F811
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    def compiled(model):
        return TorchCompileModel.execute(model, "eager").result[0]

    torch._dynamo.reset()
    wanted = pack.sample(pack.wan(), STEPS)
    patched, handle = pack.patch(pack.wan())
    model = compiled(patched)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(pack.sample(model, STEPS), wanted)
    assert "MotionCache" not in caplog.text
    assert "compiled as a whole" in handle.latest.reason
    # and the code that was compiled for this run serves the next, without the cache
    assert torch.equal(pack.sample(compiled(pack.wan()), STEPS), wanted)
