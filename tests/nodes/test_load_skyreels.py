"""The SkyReels-V2 loader on the stand-in; the real host has `tests/comfyui/test_skyreels_host.py`.

The stand-in's network is strict: a name that it does not know is an error.
"""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from motioncache_pack.motioncache_core import SettingsError, UnsupportedModelError
from motioncache_pack.motioncache_core.demo.wan import DemoWan
from motioncache_pack.motioncache_core.models.skyreels import fold_fps

DIM = 128
NAME = "SkyReels-V2-DF-1.3B.safetensors"


def checkpoint():
    sd = DemoWan(dim=DIM, ffn_dim=256, num_layers=2).state_dict()
    sd["fps_embedding.weight"] = torch.randn(2, DIM)
    for layer, rows in ((0, DIM), (2, 6 * DIM)):
        sd[f"fps_projection.{layer}.weight"] = torch.randn(rows, DIM) * 0.1
        sd[f"fps_projection.{layer}.bias"] = torch.randn(rows) * 0.1
    sd["model_type.SkyReels-V2-DF-1.3B-540P"] = torch.zeros(1)
    return sd


@pytest.fixture
def node(pack, monkeypatch):
    """The loader, with two files in the folder."""
    files = {NAME: checkpoint(), "other.safetensors": {"x_embedder.weight": torch.zeros(1)}}
    folder = {"diffusion_models": list(files)}
    paths = SimpleNamespace(
        models_dir="no-models",
        get_filename_list=folder.__getitem__,
        get_full_path_or_raise=lambda kind, name: f"{kind}/{folder[kind].index(name)}",
    )
    monkeypatch.setitem(sys.modules, "folder_paths", paths)

    def load_torch_file(path, return_metadata=False):
        assert return_metadata
        kind, index = path.split("/")
        return dict(files[folder[kind][int(index)]]), {}

    monkeypatch.setattr(pack.host.utils, "load_torch_file", load_torch_file, raising=False)
    found = importlib.import_module("motioncache_pack.nodes.load_skyreels").MotionCacheLoadSkyReels
    return SimpleNamespace(cls=found, sd=files[NAME])


def test_the_files_are_those_of_the_folder(node):
    told = node.cls.GET_NODE_INFO_V1()["input"]["required"]
    assert told["model_name"][1]["options"] == [NAME, "other.safetensors"]


@pytest.mark.parametrize("fps", ["16", "24"])
def test_the_model_has_the_folded_bias(node, fps):
    model, text = node.cls.execute(NAME, fps, "default").result
    loaded = model.model.diffusion_model.state_dict()
    expected = fold_fps(node.sd, int(fps))
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert f"fps embedding folded for {fps} fps" in text


def test_a_loaded_model_samples_with_motioncache(pack, node):
    model, _ = node.cls.execute(NAME, "24", "default").result
    patched, handle = pack.patch(model)
    result = pack.sample(patched)
    assert torch.isfinite(result).all()
    assert {e.kind for e in handle.latest.evaluations} > {"dense"}


@pytest.mark.parametrize(
    ("name", "fps", "error", "message"),
    [
        ("other.safetensors", "24", UnsupportedModelError, "found x_embedder.weight"),
        (NAME, "0", SettingsError, "whole numbers from 1"),
    ],
)
def test_bad_input(node, name, fps, error, message):
    with pytest.raises(error, match=message):
        node.cls.execute(name, fps, "default")


def test_a_kind_that_the_host_does_not_know(pack, node, monkeypatch):
    monkeypatch.setattr(pack.host.sd, "load_diffusion_model_state_dict", lambda *a, **k: None)
    with pytest.raises(UnsupportedModelError, match=f"{NAME} has the tensors of a Wan model.*Upd"):
        node.cls.execute(NAME, "24", "default")
