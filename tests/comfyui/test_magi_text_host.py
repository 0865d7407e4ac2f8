"""Captions for MAGI-1 with the real ComfyUI's tokenizers and tiny text encoders."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core import MotionCacheError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.special_tokens import DURATIONS

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("supported")]

TEXT = "A good (boy:1.3) runs on the BEACH."
TINY = {"d_model": 4096, "d_ff": 64, "num_heads": 4, "d_kv": 16, "num_layers": 2}
# file, tokenizer and text encoder of the types of Load CLIP
KINDS = {
    "pixart": ("pixart_t5", "PixArtTokenizer", "pixart_te"),
    "mochi": ("genmo", "MochiT5Tokenizer", "mochi_te"),
    "ltxv": ("lt", "LTXVT5Tokenizer", "ltxv_te"),
}


class Clip:
    """What goes through a CLIP socket, around a host's tokenizer and text encoder."""

    def __init__(self, tokenizer, encoder):
        self.tokenizer, self.encoder = tokenizer, encoder

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        self.encoder.set_clip_options({"execution_device": torch.device("cpu")})
        with torch.no_grad():
            rows, pooled, *more = self.encoder.encode_token_weights(tokens)
        return [[rows, {"pooled_output": pooled, **(more[0] if more else {})}]]


@pytest.fixture(scope="module")
def clip(host):
    """`clip(kind)`: the same weights whatever the kind."""

    def make(kind, width=4096):
        file, tokenizer, encoder = KINDS[kind]
        module = importlib.import_module(f"comfy.text_encoders.{file}")
        options = {"t5xxl_model_config": {**TINY, "d_model": width}}
        model = getattr(module, encoder)()(device="cpu", dtype=torch.float32, model_options=options)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in sorted(model.named_parameters()):
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.05)
                weight.add_(1 if "layer_norm" in name else 0)
        return Clip(getattr(module, tokenizer)(), model)

    return make


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    folder_paths = importlib.import_module("folder_paths")
    kinds = folder_paths.folder_names_and_paths
    monkeypatch.setitem(kinds, "text_encoders", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


@pytest.fixture
def table(folder):
    made = np.random.RandomState(0).standard_normal((17, 4096))
    (folder / "magi").mkdir()
    np.savez(folder / "magi" / "special_tokens.npz", other_tokens=made)
    return torch.from_numpy(made).half().float()


@pytest.fixture
def node(host):
    return importlib.import_module("motioncache_pack.nodes.magi_text").MotionCacheMagiText


def encode(node, clip, text=TEXT, clean=True, style="none", motion="none", high_quality=True):
    return node.execute(clip, text, clean, style, motion, high_quality).result[0]


def test_all_kinds_give_the_same_valid_rows(node, clip, table):
    ((expected, more),) = encode(node, clip("pixart"))
    # a, good, boy ... and the end
    assert 8 < expected.shape[1] < 20
    for kind in ("mochi", "ltxv"):
        ((rows, said),) = encode(node, clip(kind))
        assert rows.shape == expected.shape
        assert (rows - expected).norm() <= 1e-4 * expected.norm()
        assert "attention_mask" not in said
    assert torch.equal(more[DURATIONS], table[7:15])
    assert torch.equal(expected[0, :1], table[1:2])
    ((rows, _),) = encode(node, clip("pixart"), style="2d", motion="static", high_quality=False)
    assert torch.equal(rows[0, :2], table[[16, 2]])
    assert torch.equal(rows[:, 2:], expected[:, 1:])


def test_cleaning_is_what_its_switch_says(node, clip, table):
    pixart = clip("pixart")
    ((cleaned, _),) = encode(node, pixart)
    ((by_hand, _),) = encode(node, pixart, "a good boy:1.3 runs on the beach.", clean=False)
    ((weighed, _),) = encode(node, pixart, clean=False)
    assert torch.equal(cleaned, by_hand)
    assert weighed.shape != cleaned.shape


def test_an_empty_and_a_long_caption(node, clip, table):
    for kind in ("pixart", "mochi"):
        ((rows, _),) = encode(node, clip(kind), "")
        assert rows.shape[1] == 2
    pixart = clip("pixart")
    long = " ".join(["fox"] * 900)
    ((rows, _),) = encode(node, pixart, long)
    assert rows.shape[1] == 800
    # the end of the caption is still told to the encoder
    tokens = pixart.tokenize(long)["t5xxl"][0]
    end = pixart.tokenize("")["t5xxl"][0][0]
    ((expected, _),) = pixart.encode_from_tokens_scheduled({"t5xxl": [[*tokens[:799], end]]})
    assert torch.equal(rows[:, 1:], expected[:, :799])


@pytest.mark.parametrize("names", [("umt5xxl",), ("clip_l", "t5xxl"), ("g", "l", "t5xxl")])
def test_other_text_encoders_are_refused_before_they_run(node, table, names):
    clip = SimpleNamespace(tokenize=lambda text: {name: [[(1, 1.0)]] for name in names})
    with pytest.raises(UnsupportedModelError, match=f"tokens of {', '.join(names)};.*type pixart"):
        encode(node, clip)


def test_the_old_t5_and_filling_up_unseen_are_refused(node, clip, table):
    with pytest.raises(UnsupportedModelError, match="rows of 1024 numbers"):
        encode(node, clip("pixart", width=1024))
    # as types sd3 and flux do it
    unseen = clip("mochi")
    plain = unseen.encode_from_tokens_scheduled
    unseen.encode_from_tokens_scheduled = lambda t: [[rows, {}] for rows, _ in plain(t)]
    with pytest.raises(UnsupportedModelError, match="does not say where it ends"):
        encode(node, unseen)


def test_without_the_table(node, clip, folder):
    with pytest.raises(MotionCacheError, match=r"special_tokens\.npz.*example/assets.*SandAI"):
        encode(node, clip("pixart"))
