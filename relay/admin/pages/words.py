"""The language of a page: which one a browser wants, and each text of the pages in it.

English texts stand where they are used and are the keys of `locales/de.yaml`; a test finds every one of them
there. What a text means is left to whoever shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import hdrs, web

COOKIE = "language"
ENGLISH, GERMAN = "en", "de"
NAMES = {ENGLISH: "English", GERMAN: "Deutsch"}

_LOCALES = Path(__file__).parent / "locales"
_MAX_HEADER_LENGTH = 1000


def word(text: str) -> str:
    """Return a text as it is; marks one that a template translates where it is shown."""
    return text


class Words:
    """The texts of one language. `tag`: of the language, as HTML has it."""

    def __init__(self, tag: str, texts: Mapping[str, str]) -> None:
        self.tag = tag
        self._texts = texts

    def say(self, text: str, /, **values: Any) -> str:
        """Return a text in this language, with the values that it names; in English where it is missing."""
        said = self._texts.get(text, text)
        return said.format(**{name: self._shown(value) for name, value in values.items()})

    def count(self, number: int, one: str, many: str, /, **values: Any) -> str:
        """Return the text for one thing or for many, with `number` where the text names `{n}`."""
        return self.say(one if number == 1 else many, n=number, **values)

    def number(self, number: int) -> str:
        """Return a whole number with its thousands apart."""
        text = f"{number:,}"
        return text.replace(",", ".") if self.tag == GERMAN else text

    def _shown(self, value: Any) -> str:
        return self.number(value) if isinstance(value, int) else str(value)


@cache
def words_of(tag: str) -> Words:
    """Return the texts of a language."""
    return Words(tag, {} if tag == ENGLISH else read_texts(tag))


def read_texts(tag: str) -> dict[str, str]:
    """Return a language's texts by the English ones."""
    texts: dict[str, str] = yaml.safe_load((_LOCALES / f"{tag}.yaml").read_text(encoding="utf-8"))
    return texts


def words_for(request: web.Request) -> Words:
    """Return the texts for whoever asks: as chosen on a page, else as the browser prefers, else English."""
    chosen = request.cookies.get(COOKIE)
    return words_of(chosen if chosen in NAMES else _preferred(request.headers.get(hdrs.ACCEPT_LANGUAGE, "")))


def _preferred(header: str) -> str:
    """Return the language that an Accept-Language header (RFC 9110, 12.5.4) prefers."""
    best, best_weight = ENGLISH, 0.0
    for choice in header[:_MAX_HEADER_LENGTH].split(","):
        tag, _, parameter = choice.partition(";")
        name = tag.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if name in NAMES and weight > best_weight:
            best, best_weight = name, weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
