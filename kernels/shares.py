"""Shares as integer counts, so that no back end compares rounded means."""

from __future__ import annotations


def count_above(share: float, total: int) -> int:
    """The smallest count that is strictly more than `share` of `total`."""
    count = int(share * total)
    while count > 0 and count / total > share:
        count -= 1
    while count / total <= share:
        count += 1
    return count


def count_reaching(share: float, total: int) -> int:
    """The smallest count that is not less than `share` of `total`."""
    count = int(share * total)
    while count > 0 and count / total >= share:
        count -= 1
    while count / total < share:
        count += 1
    return count
