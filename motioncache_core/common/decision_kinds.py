"""What can happen to a chunk, or to a call: the words that decisions, records and reports share."""

from __future__ import annotations

DENSE, PARTIAL, REUSE = "dense", "partial", "reuse"
