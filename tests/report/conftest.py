"""As in `tests/core`: without gradients, on one thread."""

from motioncache_pack.tests.core.conftest import no_gradients, one_thread

__all__ = ["no_gradients", "one_thread"]
