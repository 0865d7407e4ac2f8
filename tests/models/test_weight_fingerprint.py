"""A model's fingerprint: the same in every dtype, another one for another model."""

import torch
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.models.weight_fingerprint import fingerprint


def weights(seed=0, **sizes):
    torch.manual_seed(seed)
    given = {"dim": 128, "ffn_dim": 256, "num_layers": 3, **sizes}
    return dict(DemoWan(**given).named_parameters())


def test_a_cast_changes_nothing():
    found = weights()
    # too small for most of these: the sign is all that is left of them
    found["blocks.0.modulation"].data[..., ::3] *= 1e-12
    found["blocks.0.modulation"].data[..., 1::3] *= -1e-6
    wanted = fingerprint(found)
    for dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64"):
        cast = {name: w.detach().to(getattr(torch, dtype)) for name, w in found.items()}
        assert fingerprint(cast) == wanted, dtype


def test_order_compiling_and_scales_of_quantised_files_change_nothing():
    found = weights()
    wanted = fingerprint(found)
    assert fingerprint(dict(reversed(list(found.items())))) == wanted
    compiled = {name.replace("blocks.1.", "blocks.1._orig_mod."): w for name, w in found.items()}
    assert fingerprint(compiled) == wanted
    scaled = {**found, "blocks.0.ffn.0.scale_weight": torch.ones(1),
              "blocks.0.ffn.0.weight_scale": torch.ones(1)}  # fmt: skip
    assert fingerprint(scaled) == wanted


def test_another_model_is_another():
    found = weights()
    marks = {
        fingerprint(found),
        fingerprint(weights(seed=1)),
        fingerprint(weights(num_layers=4)),
        fingerprint(weights(ffn_dim=512)),
        fingerprint({f"x.{name}": w for name, w in found.items()}),
    }
    assert len(marks) == 5
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in marks)


def test_a_merged_lora_is_not_told_apart_but_a_turned_sign_in_the_sample_is():
    found = weights()
    before = fingerprint(found)
    found["blocks.1.self_attn.q.weight"].data += 0.1
    assert fingerprint(found) == before
    found["blocks.1.modulation"].data.view(-1)[5] *= -1
    assert fingerprint(found) != before


def test_packed_and_absent_weights_are_no_error():
    found = {name: w.detach() for name, w in weights().items()}
    found["blocks.0.ffn.0.bias"] = torch.zeros(256, dtype=torch.uint8)
    found["blocks.1.ffn.0.bias"] = torch.empty(256, device="meta")
    assert len(fingerprint(found)) == 16
