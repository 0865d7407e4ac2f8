"""Sentences that remember what they were made of, so that a page can say them in its language.

The English of a sentence stands once, in the code that says it. It is also what the page looks its
translation up by (`nodes/web/js/chinese/`).
"""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter
from typing import Any

_FORMATTER = Formatter()


class Phrase(str):
    """English words. As text they are like any other.

    Attributes:
        data: of what they were made, JSON-ready: a template with its facts,
            `[template, {name: data}]`, or a separator with what it joins, `[separator, [data]]`.
    """

    data: list[Any]

    def spelled(self, words: str) -> Phrase:
        """The same, in words that are written otherwise: with other breaks or capitals."""
        return _made(words, self.data)


def phrase(template: str, /, **facts: object) -> Phrase:
    """A template with its `{names}` filled in.

    Raises:
        KeyError: a fact is missing.
    """
    words, told = "", {}
    for before, name, form, conversion in _FORMATTER.parse(template):
        words += before
        if name is None:
            continue
        fact = facts[name]
        if conversion:
            fact = _FORMATTER.convert_field(fact, conversion)
        if not isinstance(fact, str):
            fact = format(fact, form or "")
        words, told[name] = words + fact, as_data(fact)
    return _made(words, [template, told])


def together(separator: str, parts: Iterable[str]) -> Phrase:
    """Parts one after the other."""
    found = list(parts)
    return _made(separator.join(found), [separator, [as_data(part) for part in found]])


def lowered(words: str) -> str:
    """Words that go on with a sentence: without their capital."""
    small = words[:1].lower() + words[1:]
    return words.spelled(small) if isinstance(words, Phrase) else small


def as_data(words: str) -> Any:
    """What the page makes words of in its own language; words that are no `Phrase` are said as they
    are in any."""
    return words.data if isinstance(words, Phrase) else words


def _made(words: str, data: list[Any]) -> Phrase:
    made = Phrase(words)
    made.data = data
    return made
