"""MAGI-1 on a host whose attention does not know of groups of heads, as before ComfyUI 0.33."""

import importlib
import importlib.util
import sys

import pytest
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.magi_nodes import build, sampled

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

OLDER = """
import torch.nn.functional as F

def optimized_attention(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False,
                        skip_output_reshape=False, **kwargs):
    batch, _, width = q.shape
    q, k, v = (t.view(batch, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, -1, width)
"""


@pytest.fixture
def older(host, tmp_path, monkeypatch):
    """The attention of an older host in the place of this one's."""
    # nothing else is to be imported while it is in place
    importlib.import_module("motioncache_pack.nodes.host.magi_model")
    file = tmp_path / "attention.py"
    file.write_text(OLDER)
    name = "comfy.ldm.modules.attention"
    importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["comfy.ldm.modules"], "attention", module)
    knows = importlib.import_module("motioncache_pack.nodes.host.magi_network")._knows_groups
    knows.cache_clear()
    yield module
    knows.cache_clear()


def test_the_published_latents_come_out(older):
    case = magi.recorded("distill")
    assert case.error(sampled(build(case), case)) <= magi.TOLERANCE
