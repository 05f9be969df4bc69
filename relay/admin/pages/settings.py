"""The configuration in force as operators may see it: no secret, nor what may be one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from relay.admin.pages.words import word
from relay.config import Config, Destination, HeaderCredentials
from relay.units import format_duration

MASK = "…"
# A part of a path that is as long as a token, and has letters and digits as one: hooks carry theirs there.
_TOKEN = re.compile(r"(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[^/]{16,}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A source or a destination. `options`: what each is called, to be translated, and how it is set."""

    name: str
    address: str
    options: tuple[tuple[str, str], ...]


def sources(config: Config) -> list[Shown]:
    """Return all sources; how many logins each has, but none of them, nor a token in a path."""
    return [
        Shown(name, _masked_path(path), ((word("Logins"), str(len(config.sources[name].auth))),))
        for path, name in config.paths.items()
    ]


def destinations(config: Config) -> list[Shown]:
    """Return all destinations."""
    return [
        Shown(name, f"{one.method} {masked(one.url)}", tuple(_options(one)))
        for name, one in config.destinations.items()
    ]


def masked(url: str) -> str:
    """Return a URL without what may be a secret: its user, the values of its query, tokens in its path."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = "&".join(_masked_value(pair) for pair in parts.query.split("&")) if parts.query else ""
    path = _masked_path(parts.path)
    return f"{parts.scheme}://{MASK if user else ''}{at}{host}{path}{'?' if query else ''}{query}"


def _masked_path(path: str) -> str:
    return _TOKEN.sub(MASK, path)


def _masked_value(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{_TOKEN.sub(MASK, name)}={MASK}" if equals else MASK


def conditions(fields: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Return a route's `match` or `except` as fields and what they may be."""
    return [(name, ", ".join(texts)) for name, texts in fields.items()]


def _options(one: Destination) -> Iterator[tuple[str, str]]:
    """Yield how a destination is delivered to; names of headers, but no values."""
    if one.auth is not None:
        header = f" ({one.auth.name})" if isinstance(one.auth, HeaderCredentials) else ""
        yield word("Login"), f"{one.auth.type}{header}"
    if one.headers:
        yield word("Headers"), ", ".join(one.headers)
    yield word("Time-out"), format_duration(one.timeout.total_seconds())
    yield word("At the same time"), str(one.concurrency)
    if one.rate_limit is not None:
        yield word("Rate limit"), str(one.rate_limit)
    yield word("Delivered at"), _statuses(one.success)
    yield word("Dead at once at"), _statuses(one.reject)
    yield word("Dead after"), format_duration(one.retry.give_up_after.total_seconds())
    first = format_duration(one.retry.initial.total_seconds())
    longest = format_duration(one.retry.max.total_seconds())
    yield word("Pause between attempts"), f"{first} … {longest}"
    if one.breaker is not None:
        cooldown = format_duration(one.breaker.cooldown.total_seconds())
        yield word("Breaker"), f"{one.breaker.failures} → {cooldown}"
    if one.order_by is not None:
        yield word("In order by"), f"{one.order_by} ({one.on_dead})"
    if one.hold:
        yield word("Maintenance windows"), ", ".join(map(str, one.hold))


def _statuses(codes: Iterable[int]) -> str:
    """Return statuses as the configuration writes them: `2xx` for all of a class."""
    left, texts = set(codes), []
    for number in range(1, 6):
        whole = set(range(number * 100, number * 100 + 100))
        if whole <= left:
            left -= whole
            texts.append(f"{number}xx")
    return ", ".join([*texts, *map(str, sorted(left))])
