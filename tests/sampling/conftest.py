"""Like the core tests: without gradients."""

import gc

import pytest
from motioncache_pack.tests.core.conftest import no_gradients

__all__ = ["new_objects", "no_gradients"]


@pytest.fixture
def new_objects():
    """`gc.get_objects` tells what a test makes, and need not look through all that was there."""
    gc.collect()
    gc.freeze()
    yield gc.get_objects
    gc.unfreeze()
