"""Like the core tests: without gradients, with a place for keys and values."""

from motioncache_pack.tests.core.conftest import kept_in, no_gradients

__all__ = ["kept_in", "no_gradients"]
