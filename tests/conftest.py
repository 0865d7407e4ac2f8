"""Loads the pack once, under the name `motioncache_pack`, and makes every test start alike."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

# triton reads this when it is imported, so it is set before anything below can import it
if os.environ.get("MOTIONCACHE_TEST_TRITON") == "1":
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "motioncache_pack"

# the root is never put on sys.path: `nodes` and `kernels` are names that other packages own too
if ALIAS not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[ALIAS] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[ALIAS])

torch.set_num_threads(1)

# folders whose tests run as a host runs a model, which does it outside of them elsewhere
WITHOUT_GRADIENTS = {
    "cache", "common", "demo", "engine", "models", "policy", "report", "sampling",
}  # fmt: skip


def pytest_configure(config):
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import settings

        # a shared machine's timing is no property of the code, and a red run must be repeatable
        settings.register_profile("motioncache", deadline=None, derandomize=True)
        settings.load_profile("motioncache")


@pytest.fixture(scope="session")
def root():
    """The folder of the pack."""
    return ROOT


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def as_a_host_does(request):
    if request.path.parent.name in WITHOUT_GRADIENTS:
        request.getfixturevalue("no_gradients")


@pytest.fixture
def bench(root, monkeypatch):
    """Imports a module of the benches, which stand beside each other and bear common names."""
    before, folder = set(sys.modules), root / "tests" / "bench"
    theirs = {path.stem for path in folder.iterdir()}
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in theirs:
            del sys.modules[name]
