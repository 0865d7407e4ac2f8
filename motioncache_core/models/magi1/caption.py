"""Captions as MAGI-1 was trained on them: the cleaning rules of DeepFloyd's T5 captions.

What the rules remove and replace follows the published preprocessing, twice over; the rules are
written anew on Python's own `html` and `re`. Broken text (mojibake, HTML that is none) may come out
another way, and ligatures stay, which T5's tokenizer takes apart itself.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from urllib.parse import unquote_plus

_TLD = "com|co|ru|net|org|edu|gov|it"
_HOST = rf"[a-zA-Z0-9.\-]+[.](?:{_TLD})[\w/-]*\b/?(?!@)"
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
_DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"
_JOINED = re.compile("[-_]")
# more joints than these make a caption out of a file's name
_MANY_JOINTS = 3

_ADDRESSES = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST})", ""),
)
_CHARACTERS = (
    (r"@\w+\b", ""),
    # Chinese and Japanese signs
    ("[\u31c0-\u9fff]+", ""),
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    # numbers of articles
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILES})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_WORDS = (
    # serial numbers
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    # what shops and libraries of pictures write
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    # sizes; the second x is Cyrillic
    (r"\b\d+\.?\d*[x\u0445×]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS = (
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


class _Text(HTMLParser):
    """What a page shows of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def clean_caption(text: str) -> str:
    """The caption in lower case, without addresses, tags, serial numbers, brackets and the like."""
    return _clean(_clean(text))


def _clean(text: str) -> str:
    text = unquote_plus(text).strip().lower()
    text = _replace(text, _ADDRESSES)
    parser = _Text()
    parser.feed(text)
    parser.close()
    text = _replace("".join(parser.parts), _CHARACTERS)
    if len(_JOINED.findall(text)) > _MANY_JOINTS:
        text = _JOINED.sub(" ", text)
    text = html.unescape(html.unescape(text)).strip()
    return _replace(text, (*_WORDS, *_ENDS)).strip()


def _replace(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text
