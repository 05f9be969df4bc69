"""Why routes match or don't, on the pages."""

from __future__ import annotations

from relay.admin.pages.why import why
from relay.admin.pages.words import ENGLISH, GERMAN, words_of
from relay.routing import Route, Router

ROUTES = Router(
    [
        Route(("a",), "invoices", {"eventType": ("INVOICE", "CREDIT*")}),
        Route(("a",), "customers", {"eventType": ("ORDER",), "customer": ("5",)}),
        Route(("b",), "no samples", {}, {"orderId": ("*SAMPLE*",)}),
        Route(("c",), "all {0}", stop=True),
        Route(("d",), "never"),
    ]
)
EVENT = {"eventType": "ORDER", "orderId": "47-SAMPLE-{field}"}


def test_english_is_that_of_the_routing() -> None:
    explained = ROUTES.explain("itscope", EVENT)
    assert [why(words_of(ENGLISH), one) for one in explained] == [one.why for one in explained]


def test_german_says_the_same() -> None:
    assert [why(words_of(GERMAN), one) for one in ROUTES.explain("itscope", EVENT)] == [
        'eventType ist "ORDER", nicht "INVOICE" oder "CREDIT*"',
        'customer fehlt, verlangt ist "5"',
        "alles unter except trifft zu",
        "alles unter match trifft zu",
        "Route all {0} trifft zu und hat stop: true",
    ]
