"""Core tests run as a host runs a model, without gradients, and on one thread: they are small."""

import pytest
import torch
from motioncache_pack.tests.core.kv_places import kept_in

__all__ = ["kept_in"]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
