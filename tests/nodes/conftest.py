"""The nodes on the stand-in. On the real host `tests/comfyui/test_nodes_on_host.py` runs these."""

import os
from pathlib import Path

import pytest
from motioncache_pack.tests.support import fake_comfy
from motioncache_pack.tests.support.answer_runs import nothing_left
from motioncache_pack.tests.support.node_runs import kept, pack, supported

__all__ = ["kept", "nothing_left", "pack", "supported"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    if not os.environ.get("COMFYUI_PATH"):
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="runs from tests/comfyui on the real host"))


@pytest.fixture(scope="session")
def host():
    """The stand-in, as `comfy`."""
    undo = fake_comfy.install()
    yield fake_comfy.harness.Host()
    undo()
