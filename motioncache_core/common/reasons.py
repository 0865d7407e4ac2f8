"""Every state that keeps a run from reusing, in words: what happened, and what to change.

Adding one: an entry in a file of `reason_texts/`, `because(code, ...)` where it happens, and a
maker in `tests/nodes/reason_makers.py` that gets it from a run.
"""

from __future__ import annotations

from collections.abc import Mapping

from .phrases import Phrase, phrase, together
from .reason_texts.calls import CALLS
from .reason_texts.ends import ENDS
from .reason_texts.foreign import FOREIGN
from .reason_texts.maps import MAPS
from .reason_texts.memory import MEMORY
from .reason_texts.runs import RUNS
from .reason_texts.template import Template


class Reason(Phrase):
    """The sentence of a state. `code` names the state for programs.

    Attributes:
        happened, action: its two parts.
    """

    code: str
    happened: str
    action: str


REASONS: Mapping[str, Template] = {
    **RUNS, **CALLS, **FOREIGN, **ENDS, **MEMORY, **MAPS,
}  # fmt: skip


def because(code: str, **facts: object) -> Reason:
    """The sentence of a state, without a full stop.

    Args:
        code: one of `REASONS`.
        facts: what its template names.

    Raises:
        KeyError: the code or a fact is unknown: a mistake in the pack.
    """
    template = REASONS[code]
    return _made(code, phrase(template.happened, **facts), phrase(template.action, **facts))


def _made(code: str, happened: str, action: str) -> Reason:
    whole = together(". ", [happened, action])
    reason = Reason(whole)
    reason.code, reason.happened, reason.action = code, happened, action
    reason.data = whole.data
    return reason


def prefixed(words: str, sentence: str) -> str:
    """The sentence with words before it; a `Reason` keeps its code."""
    if not isinstance(sentence, Reason):
        return together("", [words, sentence])
    return _made(sentence.code, together("", [words, sentence.happened]), sentence.action)


def code_of(sentence: str) -> str:
    """The code of a sentence; "" for one that does not come from `REASONS`."""
    return sentence.code if isinstance(sentence, Reason) else ""
