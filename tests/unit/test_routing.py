"""Which destinations an event goes to, and why."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from relay.routing import Finding, Route, Router

ROUTES: TypeAdapter[tuple[Route, ...]] = TypeAdapter(tuple[Route, ...])
ORDER = {"eventType": "ORDER", "transactionStatus": "SENT", "orderId": "123-SAMPLE-456"}


def router(*routes: Mapping[str, Any]) -> Router:
    """Return a router of routes as they stand in a file."""
    return Router(ROUTES.validate_python(routes))


def holds(match: Mapping[str, Any], payload: Mapping[str, Any], source: str = "itscope") -> bool:
    return router({"to": ["erp"], "match": match}).destinations(source, payload) == ("erp",)


def text_holds(pattern: str, text: str) -> bool:
    return holds({"field": pattern}, {"field": text})


# ---- one condition


@pytest.mark.parametrize(
    ("wanted", "given_value"),
    [
        ("ORDER", "ORDER"),
        ("", ""),
        (["ORDER", "INVOICE"], "INVOICE"),
        (5, 5),
        (5, "5"),
        ("5", 5),
        (5, 5.0),
        (1.5, 1.5),
        (0.0, 0),
        (True, True),
        (True, "true"),
        ("false", False),
        ([5, True, "x"], True),
        ("1*", 12),
        ("tr?e", True),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_field_holds_for_any_listed_value(wanted: Any, given_value: Any) -> None:
    assert holds({"field": wanted}, {"field": given_value})


@pytest.mark.parametrize(
    ("wanted", "given_value"),
    [
        ("ORDER", "order"),
        ("ORDER", "ORDERRESPONSE"),
        ("ORDER", " ORDER"),
        ("ORDER", "ORDER\n"),
        (["ORDER", "INVOICE"], "DELIVERY"),
        (1, True),
        (True, 1),
        ("True", True),
        (False, 0),
        (5, 5.5),
        ("", None),
        ("null", None),
        ("None", None),
        ("*", None),
        ("*", ["x"]),
        ("*", []),
        ("*", {"x": "y"}),
        ("x", ["x"]),
    ],
)
def test_field_does_not_hold(wanted: Any, given_value: Any) -> None:
    assert not holds({"field": wanted}, {"field": given_value})


def test_absent_field_matches_nothing() -> None:
    assert not holds({"field": "*"}, {"other": "x"})


def test_only_top_level_fields_are_looked_at() -> None:
    assert not holds({"a.b": "x"}, {"a": {"b": "x"}})
    assert holds({"a.b": "x"}, {"a.b": "x"})


def test_all_fields_must_hold() -> None:
    match = {"eventType": "ORDER", "transactionStatus": ["SENT", "ARRIVED"]}
    assert holds(match, ORDER)
    assert not holds(match, {**ORDER, "transactionStatus": "CANCELLED"})
    assert not holds(match, {**ORDER, "eventType": "INVOICE"})


def test_source_is_the_name_of_the_ingress_and_not_a_field_of_the_payload() -> None:
    assert holds({"source": "itscope"}, {"source": "other"})
    assert holds({"source": "it*"}, {})
    assert not holds({"source": "other"}, {"source": "other"})


@pytest.mark.parametrize("value", [None, [], [None], ["x", None], {"a": "b"}, [["x"]]])
def test_match_value_must_be_a_scalar_or_a_list_of_them(value: Any) -> None:
    with pytest.raises(ValidationError, match="write a text, number or boolean, or a list of at least one"):
        router({"to": ["erp"], "match": {"field": value}})


# ---- wildcards


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*", ""),
        ("*", "anything\nat all"),
        ("**", ""),
        ("**", "x"),
        ("***SAMPLE***", "123-SAMPLE-456"),
        ("*SAMPLE*", "SAMPLE"),
        ("A*", "A"),
        ("*Z", "AZ"),
        ("A*Z", "AZ"),
        ("A*M*Z", "A-MM-Z"),
        ("?", "x"),
        ("?", "\n"),
        ("?", "\U0001f600"),
        ("??-*", "12-"),
        ("[ab]*", "[ab]c"),
        ("[!a]?", "[!a]b"),
        ("*[", "x["),
        ("*]", "x]"),
        ("\\*", "\\x"),
        ("a.c*", "a.cd"),
        ("(a|b)*", "(a|b)"),
        ("$*^", "$^"),
        ("*ü?", "xüy"),
    ],
)
def test_wildcards_match(pattern: str, text: str) -> None:
    assert text_holds(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*SAMPLE*", "123-sample-456"),
        ("A*", "BA"),
        ("*Z", "ZA"),
        ("*Z", "Z\n"),
        ("?", ""),
        ("?", "xy"),
        ("A?Z", "AZ"),
        ("[ab]*", "a"),
        ("[a-z]?", "bc"),
        ("[!a]?", "bc"),
        ("a.c*", "abcd"),
        ("a+*", "aa"),
        ("A*B*A", "ABB"),
    ],
)
def test_wildcards_do_not_match(pattern: str, text: str) -> None:
    assert not text_holds(pattern, text)


def reads_as(pattern: str, text: str) -> bool:
    """Say the same with a table of prefixes: the two wildcards, and nothing else special."""
    reached = [True] + [False] * len(text)
    for sign in pattern:
        if sign == "*":
            reached = [any(reached[: end + 1]) for end in range(len(text) + 1)]
        else:
            reached = [False] + [
                reached[end] and sign in {"?", character} for end, character in enumerate(text)
            ]
    return reached[-1]


@given(st.text("ab*?[]!^-\\.\n", max_size=8), st.text("ab[]!^-\\.\n", max_size=8))
def test_only_star_and_question_mark_are_special(pattern: str, text: str) -> None:
    assert text_holds(pattern, text) == reads_as(pattern, text)


@pytest.mark.parametrize("pattern", ["*a" * 30 + "*b", "a*" * 30 + "b", "*?" * 30 + "*b", "*" * 5000 + "b"])
def test_pathological_pattern_comes_to_an_end(pattern: str) -> None:
    assert not text_holds(pattern, "a" * 20_000)


# ---- several routes


def test_empty_and_absent_match_hold_always_and_empty_except_never() -> None:
    all_to = router(
        {"to": ["a"]}, {"to": ["b"], "match": {}}, {"to": ["c"], "except": {}}, {"to": ["d"], "match": {}}
    )
    assert all_to.destinations("itscope", {}) == ("a", "b", "c", "d")


def test_destination_is_named_once_in_the_order_of_the_routes() -> None:
    routes = router({"to": ["b", "a", "b"]}, {"to": ["a", "c"]}, {"to": ["x"], "match": {"no": "no"}})
    assert routes.destinations("itscope", ORDER) == ("b", "a", "c")


def test_routes_that_match_are_told_in_order_up_to_one_that_stops() -> None:
    routes = router(
        {"name": "all", "to": ["a"]},
        {"name": "invoices", "to": ["b"], "match": {"eventType": "INVOICE"}},
        {"name": "not samples", "to": ["b"], "except": {"orderId": "*"}},
        {"name": "orders", "to": ["a", "c"], "match": {"eventType": "ORDER"}, "stop": True},
        {"name": "late", "to": ["d"]},
    )
    matching = routes.matching("itscope", ORDER)
    assert [route.name for route in matching.routes] == ["all", "orders"]
    assert matching.destinations == routes.destinations("itscope", ORDER) == ("a", "c")


def test_event_that_no_route_wants_has_no_destination() -> None:
    assert router({"to": ["a"], "match": {"eventType": "INVOICE"}}).destinations("itscope", ORDER) == ()
    assert router().destinations("itscope", ORDER) == ()
    assert router().explain("itscope", ORDER) == []


def test_except_holds_only_when_all_of_its_fields_do() -> None:
    routes = router({"to": ["crm"], "except": {"orderId": "*SAMPLE*", "transactionStatus": ["SENT", "X"]}})
    assert routes.destinations("itscope", ORDER) == ()
    assert routes.destinations("itscope", {**ORDER, "transactionStatus": "ARRIVED"}) == ("crm",)
    assert routes.destinations("itscope", {**ORDER, "orderId": "PO-1"}) == ("crm",)
    assert routes.destinations("itscope", {"orderId": "SAMPLE"}) == ("crm",)


def test_except_counts_only_where_match_holds() -> None:
    (explanation,) = router(
        {"to": ["crm"], "match": {"eventType": "INVOICE"}, "except": {"eventType": "*"}}
    ).explain("itscope", ORDER)
    assert explanation.finding is Finding.NOT_MATCHED


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"match": {"eventType": "ORDER"}}, ("a",)),
        ({"match": {"eventType": "INVOICE"}}, ("b",)),
        ({"except": {"eventType": "ORDER"}}, ("b",)),
    ],
)
def test_stop_ends_the_walk_only_when_its_route_matched(
    first: Mapping[str, Any], expected: tuple[str, ...]
) -> None:
    routes = router({"to": ["a"], "stop": True, **first}, {"to": ["b"]})
    assert routes.destinations("itscope", ORDER) == expected


# ---- explanations


def test_explanation_says_for_every_route_what_became_of_it_and_why() -> None:
    routes = router(
        {"name": "invoices", "to": ["a"], "match": {"eventType": ["INVOICE", "CREDIT*"]}},
        {"name": "customers", "to": ["a"], "match": {"eventType": "ORDER", "customer": 5}},
        {"name": "no samples", "to": ["b"], "except": {"orderId": "*SAMPLE*"}},
        {"name": "all", "to": ["c"], "stop": True},
        {"name": "never", "to": ["d"]},
    )
    assert [(e.route.name, e.finding.value, e.why) for e in routes.explain("itscope", ORDER)] == [
        ("invoices", "not matched", 'eventType is "ORDER", not "INVOICE" or "CREDIT*"'),
        ("customers", "not matched", 'customer is absent, not "5"'),
        ("no samples", "excepted", "everything under except holds"),
        ("all", "matched", "everything under match holds"),
        ("never", "not reached", "route all matched and has stop: true"),
    ]


def test_long_text_is_shortened_in_an_explanation() -> None:
    (explanation,) = router({"to": ["a"], "match": {"f": "x"}}).explain("itscope", {"f": "y" * 1000})
    assert explanation.why == f'f is "{"y" * 77}...", not "x"'


FIELDS = st.sampled_from(["source", "a", "b", "c"])
CONDITIONS = st.dictionaries(FIELDS, st.text("xy*?", max_size=2) | st.booleans() | st.integers(0, 1))
ROUTE = st.fixed_dictionaries(
    {"to": st.lists(st.sampled_from(["p", "q", "r"]), min_size=1)},
    optional={"match": CONDITIONS, "except": CONDITIONS, "stop": st.booleans()},
)
PAYLOADS = st.dictionaries(
    st.sampled_from(["source", "a", "b", "c", "d"]),
    st.text("xy", max_size=2) | st.booleans() | st.integers(0, 1) | st.none() | st.just([1]),
)


def as_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int) else None


def simply_routed(routes: Sequence[Mapping[str, Any]], payload: Mapping[str, Any]) -> set[str]:
    """Say what the contract says, as plainly as possible."""
    event = {**payload, "source": "xx"}

    def all_hold(conditions: Mapping[str, Any]) -> bool:
        texts = {field: as_text(event.get(field)) for field in conditions}
        return all(
            text is not None and reads_as(str(as_text(conditions[field])), text)
            for field, text in texts.items()
        )

    found: set[str] = set()
    for route in routes:
        excepted = bool(route.get("except")) and all_hold(route["except"])
        if all_hold(route.get("match", {})) and not excepted:
            found.update(route["to"])
            if route.get("stop"):
                break
    return found


@given(st.lists(ROUTE, max_size=5), PAYLOADS)
def test_destinations_are_those_of_the_contracts_rules(
    routes: list[Mapping[str, Any]], payload: Mapping[str, Any]
) -> None:
    found = router(*routes).destinations("xx", payload)
    assert set(found) == simply_routed(routes, payload)
    assert len(found) == len(set(found))


def test_many_routes_are_walked_in_their_order() -> None:
    routes: list[dict[str, Any]] = [
        {"match": {"orderId": f"{number}*"}, "to": ["other"]} for number in range(100)
    ]
    routes[1] = {"match": {"eventType": "ORDER"}, "to": ["first"]}
    routes[8] = {"match": {"orderId": "*-SAMPLE-*"}, "to": ["second"]}
    routes[64] = {"match": {"transactionStatus": "SENT"}, "to": ["third"], "stop": True}
    routes[99] = {"to": ["fourth"]}
    assert router(*routes).destinations("itscope", ORDER) == ("first", "second", "other", "third")


def test_of_many_routes_those_are_looked_at_whose_rarest_field_may_hold() -> None:
    routes: list[dict[str, Any]] = []
    for number in range(100):
        routes.append({"match": {"eventType": "ORDER", "orderId": f"{number}-?"}, "to": ["erp"]})
        routes.append({"match": {"orderId": [f"x{number}", f"{number}*"], "eventType": "O*"}, "to": ["erp"]})
    looked_at = router(*routes)._index.candidates({"eventType": "ORDER", "orderId": "77-x"})
    assert [rule.route.match["orderId"] for rule in looked_at] == [("x7", "7*"), ("77-?",), ("x77", "77*")]


@given(st.lists(ROUTE, max_size=5), st.lists(PAYLOADS, min_size=2, max_size=5))
def test_what_is_remembered_of_an_event_is_right_for_the_next(
    routes: list[Mapping[str, Any]], payloads: list[Mapping[str, Any]]
) -> None:
    ready = router(*routes)
    for source, payload in itertools.product(("xx", "yy"), [*payloads, *payloads]):
        assert ready.matching(source, payload) == router(*routes).matching(source, payload)


def test_what_is_remembered_is_bounded_in_number_and_length() -> None:
    ready = router({"to": ["erp"], "match": {"orderId": "*"}})
    for number in range(2_000):
        assert ready.destinations("itscope", {"orderId": number, "documentId": "x" * 1_000}) == ("erp",)
    for length in (500, 1_000, 1 << 20):
        assert ready.destinations("itscope", {"orderId": "x" * length}) == ("erp",)
    remembered = ready._remembered.cache_info()
    assert (remembered.maxsize, remembered.currsize, remembered.misses) == (512, 512, 2_001)


@given(st.lists(ROUTE, max_size=5), PAYLOADS)
def test_explanation_and_destinations_agree(
    routes: list[Mapping[str, Any]], payload: Mapping[str, Any]
) -> None:
    ready = router(*routes)
    explained = ready.explain("xx", payload)
    matched = {name for e in explained if e.finding is Finding.MATCHED for name in e.route.to}
    assert matched == set(ready.destinations("xx", payload))
    assert [e.route for e in explained] == list(ROUTES.validate_python(routes))
