"""The one exception that callers of the kernels may want to catch."""

from __future__ import annotations

from collections.abc import Mapping


class BackendUnavailableError(RuntimeError):
    """A back end was asked for by name and cannot run the op.

    `reasons` maps every back end to the reason why it cannot run, or to `"can run"`.
    """

    def __init__(self, op: str, requested: str, reasons: Mapping[str, str]) -> None:
        self.op = op
        self.requested = requested
        self.reasons = dict(reasons)
        told = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        super().__init__(
            f"{op}: back end '{requested}' was chosen explicitly and cannot run ({told}). "
            "Choose 'auto' or one that can run, with use_backend(...) or MOTIONCACHE_BACKEND."
        )
