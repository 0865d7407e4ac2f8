from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from motioncache_pack import kernels

ROOT = Path(kernels.__file__).parents[1]

STUBS = {
    "broken-library": ("raise OSError('DLL load failed')", "cannot be imported (OSError: DLL"),
    "too-old": ("__version__ = '3.2.0'\njit = None", "Triton 3.2.0 is older than 3.3"),
    "something-else": ("", "is not OpenAI Triton"),
    "broken-inside": ("import motioncache_no_such_module", "ModuleNotFoundError"),
}


def _take_triton():
    names = [name for name in sys.modules if name.split(".")[0] == "triton"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def fresh_status():
    """As if nothing had looked for Triton yet; afterwards, as if the test had not."""
    kept = _take_triton()
    kernels.triton.status.cache_clear()
    yield
    _take_triton()
    sys.modules.update(kept)
    kernels.triton.status.cache_clear()


@pytest.mark.parametrize("stub", STUBS)
def test_a_useless_triton_is_a_reason_not_an_error(stub, tmp_path, monkeypatch, fresh_status):
    source, reason = STUBS[stub]
    (tmp_path / "triton.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    info = kernels.list_backends()[0]
    assert info.name == "triton" and not info.available and reason in info.detail
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with kernels.use_backend("triton"), pytest.raises(kernels.BackendUnavailableError) as caught:
        kernels.compact_rows(torch.ones(3, dtype=torch.bool))
    assert caught.value.reasons["triton"] == info.detail


def test_without_triton_there_is_a_reason(monkeypatch, fresh_status):
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    assert not kernels.list_backends()[0].available
    assert kernels.triton.status() == (False, "Triton is not installed")


class _Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")


def test_import_and_cpu_use_never_load_triton(tmp_path):
    # two copies under two names, as a host that loads a pack twice has them
    script = f"""
import sys, types
for name in ("first", "second"):
    pack = types.ModuleType(name)
    pack.__path__ = [{str(ROOT)!r}]
    sys.modules[name] = pack
import torch
from first import kernels
from second import kernels as again
for ops in (kernels, again):
    rows, inverse, count = ops.compact_rows(torch.tensor([0, 1, 1], dtype=torch.uint8))
    assert rows.tolist() == [1, 2, -1] and count.tolist() == [2]
assert "motioncache_broken" not in sys.modules, "Triton was imported"
"""
    (tmp_path / "triton.py").write_text(
        "import sys\nsys.modules['motioncache_broken'] = True\nraise OSError('broken')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
