"""Core tests run as a host runs a model, without gradients."""

import pytest
import torch
from motioncache_pack.tests.core.kv_places import kept_in

__all__ = ["kept_in"]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield
