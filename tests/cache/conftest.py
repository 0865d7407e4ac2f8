"""Like the core tests: without gradients, on one thread, with a place for keys and values."""

from motioncache_pack.tests.core.conftest import kept_in, no_gradients, one_thread

__all__ = ["kept_in", "no_gradients", "one_thread"]
