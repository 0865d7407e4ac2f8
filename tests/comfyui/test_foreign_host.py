"""What only the real ComfyUI has of other nodes' code in the blocks: its own choice of attention,
and networks that are changed past it."""

import importlib
import re
from pathlib import Path

import einops
import pytest
from motioncache_pack.motioncache_core.common.reasons import code_of
from motioncache_pack.tests.support.answer_runs import patch, plain_error, small, squared
from motioncache_pack.tests.support.foreign_nodes import FRAMES, TOKENS
from motioncache_pack.tests.support.node_runs import marks
from motioncache_pack.tests.support.second_passes import error_of

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("name", ["pytorch", "sub_quad", "split"])
def test_a_back_end_of_the_host_keeps_its_tokens(pack, name, order):
    attention = importlib.import_module("comfy.ldm.modules.attention")

    def put(host, model):
        clone = model.clone()
        clone.set_model_optimized_attention(attention.get_attention_function(name))
        return clone

    error, trace = error_of(pack, small(pack), put, "motion", order)
    assert "p" in marks(trace) and not trace.remarks
    assert error < 2 * plain_error(small(pack))


def weighed(method):
    """A self-attention whose answer is weighed frame by frame."""

    def forward(*args, **kwargs):
        x = method(*args, **kwargs)
        frames = einops.rearrange(x, "b (f s) c -> b f s c", f=FRAMES, s=TOKENS // FRAMES)
        mixed = frames + 0.1 * frames.mean(dim=1, keepdim=True)
        return einops.rearrange(mixed, "b f s c -> b (f s) c")

    return forward


@pytest.mark.parametrize("whole_class", [True, False], ids=["class", "module"])
def test_a_network_that_is_changed_past_the_host_is_seen_in_the_run(pack, monkeypatch, whole_class):
    scene = small(pack)
    model = importlib.import_module("comfy.ldm.wan.model")
    part = scene.model.model.diffusion_model.blocks[0].self_attn
    plain = scene.sample(scene.model)
    if whole_class:
        monkeypatch.setattr(model.WanSelfAttention, "forward",
                            weighed(model.WanSelfAttention.forward))  # fmt: skip
    else:
        monkeypatch.setattr(part, "forward", weighed(part.forward))
    patched, handle = patch(pack, scene.model, "motion")
    wanted, got = scene.sample(scene.model), scene.sample(patched)
    (told,) = handle.latest.remarks
    assert code_of(told) == "tokens_lost" and "weighed.forward" in told
    assert {"D", "."} == set(marks(handle.latest))
    assert squared(plain, wanted) > 1e-7 and squared(got, wanted) < 4 * plain_error(scene)


def test_what_the_host_writes_into_options_is_known(host, current):
    """Else a pass would seem another one once the network has run with its options."""
    passes = importlib.import_module("motioncache_pack.nodes.host.passes")
    root = Path(host.samplers.__file__).parent
    written = set()
    for file in root.rglob("*.py"):
        written |= set(re.findall(r"transformer_options\[\"(\w+)\"\] = ", file.read_text("utf-8")))
    # a sampler's, and the same for all passes
    assert len(written) > 12 and written - {"ar_state"} <= passes._HOSTS
