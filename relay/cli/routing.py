"""Commands that try routes: on a payload, on cases of a file, on the events that came."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.options import config_option, fail, json_option, loaded, when, with_relay
from relay.cli.printing import explained, instant, kind, listed, number_of, table
from relay.errors import BadPayloadError, ConfigError

if TYPE_CHECKING:
    from relay.casefile import Result
    from relay.client import Client
    from relay.config import Config
    from relay.routediff import Comparison
    from relay.routing import Explanation


@click.command()
@config_option
@click.argument("payload", type=click.File("rb"), default="-", metavar="[FILE or -]")
@click.option("--source", help="The source it comes from; default: the first one.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--expect", help="Comma-separated destinations; exit 1 on a mismatch. Empty: unrouted.")
def route(config_path: Path, payload: Any, source: str | None, *, as_json: bool, expect: str | None) -> None:
    """Say for a payload which routes match, which don't and why, and where it would go.

    \b
    Examples:
      itscope-relay route -c config.yaml webhook.json
      echo '{"eventType": "INVOICE"}' | itscope-relay route --expect erp,accounting
    """
    from relay.payload import parse
    from relay.routing import Router

    config = loaded(config_path)
    try:
        fields = parse(payload.read(config.server.max_body + 1))
    except BadPayloadError as error:
        fail(f"{payload.name}: {error}")
    source = _checked_source(source, config)
    router = Router(config.routes)
    explanations = router.explain(source, fields)
    destinations = router.destinations(source, fields)
    document = _document(explanations, destinations)
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(explained(document)))
    if expect is not None:
        expected = {name.strip() for name in expect.split(",") if name.strip()}
        from relay.config import suggestion

        for name in sorted(expected - config.destinations.keys()):
            fail(f"--expect: there is no destination {name}{suggestion(name, config.destinations)}")
        if expected != set(destinations):
            fail(f"expected: {listed(sorted(expected))}\ngot:      {listed(sorted(destinations))}")


def _checked_source(source: str | None, config: Config) -> str:
    if source is None:
        return next(iter(config.sources))
    if source not in config.sources:
        from relay.config import suggestion

        raise click.BadParameter(f"there is no source {source}{suggestion(source, config.sources)}")
    return source


def _document(explanations: list[Explanation], destinations: tuple[str, ...]) -> dict[str, Any]:
    return {
        "destinations": destinations,
        "routes": [
            {
                "name": explanation.route.name,
                "finding": explanation.finding,
                "why": explanation.why,
                "to": explanation.route.to,
            }
            for explanation in explanations
        ],
    }


@click.command("test")
@config_option
@click.argument("cases", type=click.Path(path_type=Path, readable=False), metavar="TESTS.YAML")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def test_routes(config_path: Path, cases: Path, *, as_json: bool) -> None:
    """Run unit tests of the routes: exit 1 and a diff if an event goes elsewhere than expected.

    \b
    A file of tests:
      tests:
        - name: cancelled orders reach the CRM
          event: {eventType: ORDERRESPONSE, transactionStatus: CANCELLED}
          expect: [erp, crm]        # [] for unrouted
          source: itscope           # default: the first source
    \b
    Example:
      itscope-relay test -c config.yaml tests.yaml
    """
    from relay.casefile import load_cases, run_case
    from relay.routing import Router

    config = loaded(config_path)
    try:
        tests = load_cases(cases, config)
    except ConfigError as error:
        fail(str(error))
    router = Router(config.routes)
    results = [run_case(case, router, next(iter(config.sources))) for case in tests]
    if as_json:
        click.echo(json.dumps([_result_json(result) for result in results], indent=2))
    else:
        for result in results:
            click.echo(_result_text(result))
    failed = sum(not result.passed for result in results)
    if not as_json:
        click.echo(f"{len(results) - failed} passed, {failed} failed")
    if failed:
        sys.exit(1)


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "passed": result.passed,
        "missing": result.missing,
        "unexpected": result.unexpected,
    }


def _result_text(result: Result) -> str:
    lines = [f"{'ok  ' if result.passed else 'FAIL'} {result.name}"]
    lines += [f"     - {name}   expected, but no route sends it there" for name in result.missing]
    lines += [f"     + {name}   not expected, but a route sends it there" for name in result.unexpected]
    return "\n".join(lines)


@click.command("diff-routes")
@config_option
@click.option(
    "--since",
    type=when,
    default="7d",
    show_default=True,
    help="Events not before: 7d, 2026-11-22T08:00:00Z.",
)
@json_option
@with_relay
def diff_routes(relay: Client, config_path: Path, since: str, *, as_json: bool) -> None:
    """Try a new configuration's routes on the events that a running relay has stored.

    Says which of them would go elsewhere than they did: exit 0 if none, 1 if some. Nothing is delivered.

    \b
    Example:
      itscope-relay diff-routes -c new.yaml --since 7d
    """
    from relay.routediff import compare
    from relay.routing import Router

    router = Router(loaded(config_path).routes)
    found = compare(router, relay.items("events", order="oldest", payload="true", since=since))
    click.echo(json.dumps(_comparison_json(found), indent=2) if as_json else _comparison_text(found))
    if found.differing:
        sys.exit(1)


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "events": found.events,
        "differing": found.differing,
        "summary": [
            {
                "event_type": kind_[0],
                "transaction_status": kind_[1],
                "destination": name,
                "gained": found.gained[kind_, name],
                "lost": found.lost[kind_, name],
            }
            for kind_, name in _changed(found)
        ],
        "first": [
            {
                "id": difference.event["id"],
                "event_id": difference.event["event_id"],
                "gained": difference.gained,
                "lost": difference.lost,
            }
            for difference in found.first
        ],
    }


def _changed(found: Comparison) -> list[tuple[Any, str]]:
    """Return each kind of event and destination that gained or lost something, in a steady order."""
    return sorted(found.gained.keys() | found.lost.keys(), key=str)


def _comparison_text(found: Comparison) -> str:
    events = number_of(found.events, "event")
    if not found.differing:
        return f"{events}: all would go where they went"
    summary = [
        (kind_[0], kind_[1], name, found.gained[kind_, name] or None, found.lost[kind_, name] or None)
        for kind_, name in _changed(found)
    ]
    first = [
        (
            difference.event["id"],
            instant(difference.event["received_at"]),
            difference.event["event_id"],
            kind(difference.event),
            " ".join(
                [*(f"+{name}" for name in difference.gained), *(f"-{name}" for name in difference.lost)]
            ),
        )
        for difference in found.first
    ]
    return "\n".join(
        [
            f"{events}: {found.differing} would go elsewhere",
            "",
            table(("TYPE", "STATUS", "DESTINATION", "GAINS", "LOSES"), summary),
            "",
            f"the first {len(first)}:" if found.differing > len(first) else "which are:",
            table(("ID", "RECEIVED", "EVENT ID", "TYPE STATUS", "CHANGE"), first),
        ]
    )
