"""Everything the core raises on purpose."""

from __future__ import annotations


class MotionCacheError(Exception):
    """Base class of the pack's own errors."""


class SettingsError(MotionCacheError, ValueError):
    """A setting is out of range, unknown or of the wrong type."""


class UnsupportedModelError(MotionCacheError, TypeError):
    """No adapter knows this model."""


class CacheShapeError(MotionCacheError, ValueError):
    """A tensor does not have the shape that the cache was told to expect."""


class NoMapError(MotionCacheError):
    """A run left no map of the kind that was asked for."""


class ConflictError(MotionCacheError, RuntimeError):
    """Another cache is already at work on the same model."""


class ImageError(MotionCacheError, ValueError):
    """Images or videos that cannot be compared."""


class ProfileError(MotionCacheError, ValueError):
    """A calibrated profile is not what it says it is, or not for this model."""
