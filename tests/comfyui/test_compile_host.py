"""ComfyUI's own compile node, and what the pack takes for granted of it."""

import inspect

import pytest
import torch
from motioncache_pack.tests.nodes.test_compiled import STEPS
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.node_runs import foretold

pytestmark = pytest.mark.comfy


def test_the_helper_is_what_the_pack_and_the_stand_in_take_it_for(pack):
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


def test_a_model_that_the_compile_node_has_compiled(pack):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    def compiled(model):
        return TorchCompileModel.execute(model, "eager").result[0]

    torch._dynamo.reset()
    wanted = pack.sample(pack.wan(), STEPS)
    balanced, _ = pack.execute("MotionCachePatcher", pack.wan(), "balanced")
    patched, handle = pack.patch(pack.wan())
    assert torch.equal(pack.sample(compiled(patched), STEPS), pack.sample(balanced, STEPS))
    why, computed = foretold(handle.latest)
    assert "compiled as a whole" in why and computed == round(0.4 * STEPS)
    # and the code that was compiled for this run serves the next, without the cache
    assert torch.equal(pack.sample(compiled(pack.wan()), STEPS), wanted)
