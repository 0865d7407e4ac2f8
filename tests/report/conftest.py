"""As in `tests/core`: without gradients."""

from motioncache_pack.tests.core.conftest import no_gradients

__all__ = ["no_gradients"]
