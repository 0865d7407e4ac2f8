"""MAGI-1's network alone: sizes from a file, rows of a chunk, dtypes, bad input."""

import dataclasses

import pytest
import torch
from motioncache_pack.motioncache_core.common.errors import UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.blocks import rotate
from motioncache_pack.motioncache_core.models.magi1.config import MARKER, MagiConfig
from motioncache_pack.motioncache_core.models.magi1.network import (
    MagiNetwork,
    attend_alone,
    plain_attention,
)
from motioncache_pack.tests.support import magi
from motioncache_pack.tests.support.assert_close import assert_close, assert_same

SMALL = MagiConfig(
    blocks=2, width=256, heads=16, groups=8, head_width=16, ffn_width=96, text_width=24
)
CPU = torch.device("cpu")


def a_chunk(network, x, first=6, rows=None, keys=attend_alone):
    """One evaluation at a time of 0.3, with the recorded caption."""
    text = network.text(magi.recorded("distill").rows_of(0))
    condition = network.condition(0.3, True, 4.0, CPU)
    attend = plain_attention(network.config)
    return network.chunk(x, condition, text, first, keys, attend, rows)


def test_sizes_follow_from_the_tensors():
    assert MagiConfig.from_tensors(magi.recorded("distill").weights) == SMALL
    large = MagiConfig.from_tensors(magi.recorded("base_24b").weights)
    assert large == dataclasses.replace(SMALL, gated=True, doubled=True)
    assert (SMALL.latent_scale, large.latent_scale) == (1.0, 0.1)


def test_weights_in_8_bits_may_have_a_leading_dimension():
    weights = dict(magi.recorded("base_24b").weights)
    names = [k for k in weights if k.endswith((".q.weight", ".k.weight", "fc1.weight"))]
    weights |= {k: weights[k][None] for k in names}
    assert MagiConfig.from_tensors(weights).gated


def test_another_model_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"no MAGI-1 model.*sand-ai/MAGI-1"):
        MagiConfig.from_tensors({"blocks.0.self_attn.q.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("videodit_blocks.layers.0.mlp.linear_fc2.weight", "linear_fc2"),
        ("x_embedder.weight", "x_embedder"),
    ],
)
def test_a_model_with_a_tensor_less_is_refused(gone, named):
    weights = {k: v for k, v in magi.recorded("distill").weights.items() if k != gone}
    with pytest.raises(UnsupportedModelError, match=f"incomplete: .*{named}.*shards"):
        MagiConfig.from_tensors(weights)


def test_a_model_with_a_block_less_is_refused():
    weights = dict(magi.recorded("distill").weights)
    weights["videodit_blocks.layers.3.mlp.linear_fc1.weight"] = torch.zeros(1, 1)
    with pytest.raises(UnsupportedModelError, match=r"layers\.2\."):
        MagiConfig.from_tensors(weights)
    assert MARKER in weights


def test_rotation_turns_pairs_and_leaves_the_rest():
    x, angles = torch.randn(1, 3, 2, 16), torch.randn(3, 6)
    got = rotate(x, angles.cos(), angles.sin())
    turned = torch.complex(x[..., :6], x[..., 6:12]) * torch.polar(
        torch.ones(3, 1, 6), angles[:, None]
    )
    expected = torch.cat((turned.real, turned.imag, x[..., 12:]), dim=-1)
    assert_close("rotated", expected, got)


def test_rows_that_are_computed_against_kept_keys_are_those_of_the_whole_chunk():
    network, x = magi.network_of(magi.recorded("distill")), torch.randn(1, 16, 6, 4, 10)
    kept = {}

    def keep(block, q, k, v):
        kept[block] = (k, v)
        return k, v

    whole = a_chunk(network, x, keys=keep)
    rows = torch.tensor([0, 7, 8, 31, 59])

    def merge(block, q, k, v):
        keys, values = (t.clone() for t in kept[block])
        # what is not computed is poisoned but for the stored keys
        keys[:, rows], values[:, rows] = k, v
        return keys, values

    some = a_chunk(network, x, rows=rows, keys=merge)
    frames, lines, columns = rows // 10, rows % 10 // 5, rows % 5
    for f, y, z in zip(frames, lines, columns, strict=True):
        cell = (..., f, slice(2 * y, 2 * y + 2), slice(2 * z, 2 * z + 2))
        assert_close("computed row", whole[cell], some[cell])
    assert not torch.allclose(whole, some)


def test_the_place_in_the_video_and_the_text_are_read():
    network, x = magi.network_of(magi.recorded("distill")), torch.randn(1, 16, 6, 6, 4)
    # alone, a chunk cannot tell its place by attention: rotary positions are relative
    assert_close("moved", a_chunk(network, x, first=0), a_chunk(network, x, first=300), 1e-3)
    alone = network.chunk(
        x, network.condition(0.3, True, 4.0, CPU), network.text(network.null_text()), 6,
        attend_alone, plain_attention(network.config),
    )  # fmt: skip
    assert (a_chunk(network, x) - alone).abs().max() > 0.1


@pytest.mark.parametrize("published", [True, False], ids=["published", "fast"])
def test_stored_in_another_dtype_it_computes_in_its_own(published):
    case = magi.recorded("distill_bf16")
    config = MagiConfig.from_tensors(case.weights)
    plain = magi.network_of(case, published=published)
    stored = MagiNetwork(
        config, dtype=torch.float32, published=published, compute_dtype=torch.bfloat16
    )
    # the same numbers, kept in more bits
    stored.load_state_dict({k: v.float() for k, v in plain.state_dict().items()})
    x = torch.randn(1, 16, 6, 4, 6)
    assert_same("velocity", a_chunk(plain, x), a_chunk(stored, x))
    assert plain.compute_dtype is torch.bfloat16
    assert a_chunk(plain, x).dtype is torch.float32


def test_layers_may_come_in_bf16_where_they_compute_in_fp32():
    """Files may keep the embedders' weights in 16 bits, and a host may assign them as they are."""
    network = magi.network_of(magi.recorded("distill_bf16"))
    x = torch.randn(1, 16, 6, 4, 6)
    for p in network.parameters():
        p.data = p.data.to(torch.bfloat16)
    expected = a_chunk(network, x)
    for name, p in network.named_parameters():
        if name.startswith(("x_embedder", "t_embedder", "y_embedder", "final_linear")):
            p.data = p.data.float()
    assert_same("velocity", expected, a_chunk(network, x))
