import gc

import pytest


@pytest.fixture
def new_objects():
    """`gc.get_objects` tells what a test makes, and need not look through all that was there."""
    gc.collect()
    gc.freeze()
    yield gc.get_objects
    gc.unfreeze()
