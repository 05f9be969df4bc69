"""Why a route matched an event or didn't, in the language of a page. Pure.

What became of the route is `routing`'s, which says the same in English.
"""

from __future__ import annotations

from relay.admin.pages.words import Words, word
from relay.routing import Explanation, Finding, quoted

_ALWAYS = {
    Finding.MATCHED: word("everything under match holds"),
    Finding.EXCEPTED: word("everything under except holds"),
}
_STOPPED = word("route {name} matched and has stop: true")
_ABSENT = word("{field} is absent, not {wanted}")
_OTHER = word("{field} is {text}, not {wanted}")
_OR = word("or")


def why(words: Words, one: Explanation) -> str:
    """Return the sentence that says why a route's finding is what it is."""
    if one.stopped_by is not None:
        return words.say(_STOPPED, name=one.stopped_by)
    if one.failed is None:
        return words.say(_ALWAYS[one.finding])
    wanted = f" {words.say(_OR)} ".join(map(quoted, one.failed.wanted))
    if one.failed.text is None:
        return words.say(_ABSENT, field=one.failed.field, wanted=wanted)
    return words.say(_OTHER, field=one.failed.field, text=quoted(one.failed.text), wanted=wanted)
