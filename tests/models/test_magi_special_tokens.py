"""Rows in front of a caption: their order, their values, and files that hold none."""

import numpy as np
import pytest
import torch
from motioncache_pack.motioncache_core import SettingsError, UnsupportedModelError
from motioncache_pack.motioncache_core.models.magi1.special_tokens import (
    duration_rows,
    prefix_rows,
    read_table,
)
from safetensors.torch import save_file

WIDTH = 6


@pytest.fixture
def table():
    return torch.randn(100, WIDTH)


@pytest.mark.parametrize(
    ("style", "motion", "high_quality", "rows"),
    [
        ("none", "none", True, [1]),
        ("none", "none", False, []),
        ("3d", "static", True, [15, 1, 2]),
        ("2d", "dynamic", True, [16, 1, 3]),
        ("2d", "none", False, [16]),
    ],
)
def test_rows_and_their_order(table, style, motion, high_quality, rows):
    """As published, where each of them is put in front of those before."""
    assert torch.equal(prefix_rows(table, style, motion, high_quality), table[rows])


def test_durations(table):
    assert torch.equal(duration_rows(table), table[7:15])


def test_either_form_of_the_file(table, tmp_path):
    arrays = {"caption_token": table[:1], "logo_token": table[:1], "other_tokens": table}
    np.savez(tmp_path / "a.npz", **{k: v.double().numpy() for k, v in arrays.items()})
    save_file({k: v.half() for k, v in arrays.items()}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        found = read_table(tmp_path / name)
        assert found.dtype == torch.float32
        assert torch.equal(found, table.half().float())


def test_other_files_are_refused(table, tmp_path):
    save_file({"weight": table}, tmp_path / "a.safetensors")
    save_file({"other_tokens": table[:16]}, tmp_path / "short.safetensors")
    np.savez(tmp_path / "a.npz", other_tokens=np.array([{}], dtype=object))
    for name in ("text.npz", "text.safetensors"):
        (tmp_path / name).write_text("no table")
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(UnsupportedModelError, match=f"{file.name}.*example/assets"):
            read_table(file)


@pytest.mark.parametrize(("style", "motion"), [("4d", "none"), ("none", "fast")])
def test_choices(table, style, motion):
    with pytest.raises(SettingsError, match="allowed are none"):
        prefix_rows(table, style, motion, True)
