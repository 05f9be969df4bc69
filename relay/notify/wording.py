"""What a message says, and how each chat wants it. Pure.

Counts, names of the configuration and times, and never anything of a payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relay.notify.conditions import Fact, Kind, Report


@dataclass(frozen=True, slots=True)
class Message:
    """What people read. `lines` say the same as `subject`, at length."""

    subject: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


def message(report: Report, name: str, link: str | None, now: float) -> Message:
    """Return what a report says.

    Args:
        report: with at least one fact.
        name: of the relay.
        link: stands at the end.
        now: UTC, as seconds since 1970.
    """
    facts = [*map(_begun, report.begun), *(f"recovered: {_ended(fact)}" for fact in report.ended)]
    more = f" (and {len(facts) - 1} more)" if len(facts) > 1 else ""
    return _framed(name, f"{facts[0]}{more}", facts, link, now)


def trial(name: str, link: str | None, now: float) -> Message:
    """Return a message that says that messages arrive."""
    return _framed(name, "a test", ["This is a test. Messages of the relay arrive here."], link, now)


def _framed(name: str, subject: str, lines: list[str], link: str | None, now: float) -> Message:
    head = f"{name}, {_instant(now)}"
    return Message(f"{name}: {subject}", (head, *lines, *([link] if link else [])))


def _begun(fact: Fact) -> str:
    name, lasts = fact.condition.name, spoken(fact.seconds)
    match fact.condition.kind:
        case Kind.NOT_READY:
            return f"no webhooks have been accepted for {lasts}; what ITscope sends meanwhile may be lost"
        case Kind.DEAD:
            if fact.number == 1:
                return f"{name}: 1 delivery is dead, and waits to be replayed or discarded"
            return f"{name}: {fact.number} deliveries are dead, and wait to be replayed or discarded"
        case Kind.OVERDUE:
            return f"{name}: an event has been waiting for {lasts}"
        case Kind.BREAKER:
            return f"{name}: it fails, and its breaker has been open for {lasts}"
        case Kind.SILENT:
            return f"{name}: no event since {_instant(fact.since)}"


def _ended(fact: Fact) -> str:
    name, lasted = fact.condition.name, f"(it lasted {spoken(fact.seconds)})"
    match fact.condition.kind:
        case Kind.NOT_READY:
            return f"webhooks are accepted again {lasted}"
        case Kind.DEAD:
            return f"{name}: no delivery is dead any more {lasted}"
        case Kind.OVERDUE:
            return f"{name}: no event is overdue any more {lasted}"
        case Kind.BREAKER:
            return f"{name}: its breaker isn't open any more {lasted}"
        case Kind.SILENT:
            return f"{name}: events come again {lasted}"


def spoken(seconds: float) -> str:
    """Return a duration as people say it, in its two largest units."""
    minutes = int(seconds) // 60
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days}d {hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m" if minutes else f"{int(seconds)}s"


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def as_json(made: Message, form: str) -> dict[str, Any]:
    """Return a message as the incoming webhook of a chat takes it.

    Args:
        made: the message.
        form: `teams` (an Adaptive Card, as its workflows take them), `slack` or `mattermost`.
    """
    match form:
        case "teams":
            return _adaptive_card(made)
        case "slack":
            escaped = made.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            return {"text": escaped}
        case _:
            return {"text": made.text}


def _adaptive_card(made: Message) -> dict[str, Any]:
    """Return a card whose text is plain: where Markdown is read, names might become something else."""
    runs = [
        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line, "weight": weight}]}
        for line, weight in zip(made.lines, ("Bolder", *["Default"] * len(made.lines)), strict=False)
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.3",
        "fallbackText": made.text,
        "body": runs,
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}
