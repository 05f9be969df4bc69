"""The command line: one function a command. What they do is done elsewhere; here it is read and printed."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import click

from relay import __version__, demo, logs, samples
from relay.app import Relay
from relay.casefile import Result, load_cases, run_case
from relay.config import Config, json_schema, load, suggestion
from relay.errors import BadPayloadError, ConfigError, RelayError
from relay.passwords import SALT_BYTES, hash_password
from relay.payload import parse
from relay.routing import SOURCE_FIELD, Explanation, Finding, Router
from relay.send import Player

# How long the interpreter lets one thread run while another waits. The default of 5 ms is what each statement
# of the store's thread would wait for a busy event loop.
_SWITCH_INTERVAL_SECONDS = 0.0005

_config_option = click.option(
    "-c",
    "--config",
    "config_path",
    envvar="ITSCOPE_RELAY_CONFIG",
    default="config.yaml",
    show_default=True,
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="A configuration file, or a folder whose *.yaml make one.",
)


def main() -> None:
    """Run the command `itscope-relay`."""
    cli(windows_expand_args=False)


def _fail(message: str) -> NoReturn:
    """End with what is wrong: exit code 1."""
    click.echo(message, err=True)
    sys.exit(1)


def _loaded(path: Path) -> Config:
    try:
        return load(path, os.environ)
    except ConfigError as error:
        _fail(str(error))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="itscope-relay")
def cli() -> None:
    """Accepts each ITscope webhook once and delivers it to every internal system that wants it.

    \b
    First steps:
      itscope-relay demo                          see it work, without any configuration
      itscope-relay check -c config.yaml          is my configuration right?
      itscope-relay serve -c config.yaml          run it
    """


@cli.command()
@_config_option
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="debug shows every accepted event and every delivery.",
)
def serve(config_path: Path, log_format: str, log_level: str) -> None:
    """Run the relay.

    SIGTERM and SIGINT drain: no new webhooks, deliveries under way finish or are put back, exit 0 within
    server.drain_timeout and a few seconds. SIGHUP reads the configuration again.

    \b
    Example:
      itscope-relay serve -c /etc/itscope-relay/config.yaml --log-format text
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    config = _loaded(config_path)
    listener = logs.start(log_format, log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        _run(_serve(config_path, config))
    except RelayError as error:
        _fail(str(error))
    finally:
        listener.stop()


async def _serve(path: Path, config: Config) -> None:
    """Run until a signal asks to stop, or a part of the relay fails."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Relay(path, config, os.environ, time.time) as relay:
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            async def run() -> None:
                with contextlib.suppress(ConfigError):  # logged, and seen in the metric
                    await relay.reload()

            task = loop.create_task(run())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        scheme = "https" if config.server.tls else "http"
        for path_ in config.paths:
            for url in _urls(scheme, relay.public.addresses):
                click.echo(f"listening on {url}{path_}")
        for url in _urls("http", relay.admin.addresses):
            click.echo(f"admin on {url}")
        stopping = asyncio.ensure_future(stop.wait())
        failing = asyncio.ensure_future(relay.failed())
        done, _ = await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failing.cancel()
        for task in done:
            task.result()


def _urls(scheme: str, addresses: list[tuple[str, int]]) -> list[str]:
    return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses]


@cli.command()
@_config_option
def check(config_path: Path) -> None:
    """Validate a configuration: exit 0, or 1 with every problem and its place.

    \b
    Examples:
      itscope-relay check -c config.yaml
      itscope-relay check -c /etc/itscope-relay/conf.d/     a folder: all its *.yaml
    """
    config = _loaded(config_path)
    for rule in config.routes:
        for field in (*rule.match, *rule.except_):
            if meant := _meant_field(field):
                click.echo(f"{config_path}: warning: {rule.name}: {field}: did you mean {meant}?", err=True)
    click.echo(
        f"{config_path}: OK: {_number(len(config.sources), 'source')},"
        f" {_number(len(config.destinations), 'destination')}, {_number(len(config.routes), 'route')}"
    )


def _meant_field(field: str) -> str | None:
    """Return the field of ITscope that another, similar one was probably meant to be."""
    known = {name.lower(): name for name in (*parse(samples.DOCUMENTED_SAMPLE), SOURCE_FIELD)}
    close = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0.8)
    return known[close[0]] if close and field not in known.values() else None


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@cli.command()
@_config_option
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
    config = _loaded(config_path)
    try:
        fields = parse(payload.read(config.server.max_body + 1))
    except BadPayloadError as error:
        _fail(f"{payload.name}: {error}")
    source = _checked_source(source, config)
    router = Router(config.routes)
    explanations = router.explain(source, fields)
    destinations = router.destinations(source, fields)
    click.echo(
        _route_json(explanations, destinations) if as_json else _route_text(explanations, destinations)
    )
    if expect is not None:
        expected = {name.strip() for name in expect.split(",") if name.strip()}
        for name in sorted(expected - config.destinations.keys()):
            _fail(f"--expect: there is no destination {name}{suggestion(name, config.destinations)}")
        if expected != set(destinations):
            _fail(f"expected: {_listed(sorted(expected))}\ngot:      {_listed(sorted(destinations))}")


def _checked_source(source: str | None, config: Config) -> str:
    if source is None:
        return next(iter(config.sources))
    if source not in config.sources:
        raise click.BadParameter(f"there is no source {source}{suggestion(source, config.sources)}")
    return source


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names) or "nowhere (unrouted)"


def _route_text(explanations: list[Explanation], destinations: tuple[str, ...]) -> str:
    width = max(len(explanation.route.name) for explanation in explanations)
    marks = {Finding.MATCHED: "+", Finding.NOT_MATCHED: "-", Finding.EXCEPTED: "-", Finding.NOT_REACHED: " "}
    lines = []
    for explanation in explanations:
        adds = f" -> {', '.join(explanation.route.to)}" if explanation.finding is Finding.MATCHED else ""
        lines.append(
            f"{marks[explanation.finding]} {explanation.route.name:{width}}  {explanation.finding}:"
            f" {explanation.why}{adds}"
        )
    return "\n".join([*lines, f"goes to: {_listed(destinations)}"])


def _route_json(explanations: list[Explanation], destinations: tuple[str, ...]) -> str:
    return json.dumps(
        {
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
        },
        indent=2,
    )


@cli.command("test")
@_config_option
@click.argument("cases", type=click.Path(path_type=Path), metavar="TESTS.YAML")
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
    config = _loaded(config_path)
    try:
        loaded = load_cases(cases, config)
    except ConfigError as error:
        _fail(str(error))
    router = Router(config.routes)
    results = [run_case(case, router, next(iter(config.sources))) for case in loaded]
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


@cli.command()
@click.argument("url")
@click.option("--type", "kind", help="Only this eventType, such as ORDER; default: every one in turn.")
@click.option("--status", help="Only this transactionStatus.")
@click.option("--count", type=click.IntRange(1, 10_000_000), help="Default: one of each.")
@click.option("--rate", type=click.FloatRange(0.01, 100_000), help="Webhooks a second; default: no limit.")
@click.option(
    "--user",
    envvar="ITSCOPE_RELAY_USER",
    show_envvar=True,
    help="USER:PASSWORD; asks for a missing password.",
)
@click.option("--sample", is_flag=True, help="Send ITscope's documented sample, byte for byte.")
@click.option("--insecure", is_flag=True, help="Don't check the server's certificate.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def send(  # noqa: PLR0913
    url: str,
    kind: str | None,
    status: str | None,
    count: int | None,
    rate: float | None,
    user: str | None,
    *,
    sample: bool,
    insecure: bool,
    as_json: bool,
) -> None:
    """Play ITscope: post sample webhooks to URL and report answers and latency.

    Exit 1 if any answer is not a 200.

    \b
    Examples:
      itscope-relay send http://127.0.0.1:8080/webhooks/itscope --user itscope:secret
      itscope-relay send https://r.example/webhooks/itscope --user itscope --rate 20 --count 100
    """
    if not url.startswith(("http://", "https://")):
        raise click.BadParameter("must start with http:// or https://", param_hint="URL")
    kinds = [
        (of_kind, of_status)
        for of_kind, of_status in samples.one_of_each()
        if kind in {None, of_kind} and status in {None, of_status}
    ] or [(kind or "ORDER", status or "SENT")]
    if sample:
        bodies = iter([samples.DOCUMENTED_SAMPLE] * (count or 1))
    else:
        bodies = (samples.webhook(*kinds[number % len(kinds)]) for number in range(count or len(kinds)))
    verify: bool | ssl.SSLContext = True
    if insecure:
        verify = False

    async def run() -> Any:
        async with Player(url, _authorization(user), verify) as player:
            return await player.post_all(bodies, rate)

    report = _run(run())
    if as_json:
        latencies = report.latencies_seconds
        quantiles = {
            name: round(report.quantile_seconds(share), 6) if latencies else None
            for name, share in (("p50_seconds", 0.5), ("p99_seconds", 0.99))
        }
        click.echo(json.dumps({"answers": dict(report.answers), **quantiles}))
    else:
        click.echo(report.summary())
    if not report.all_accepted:
        sys.exit(1)


def _authorization(user: str | None) -> str | None:
    if user is None:
        return None
    name, colon, password = user.partition(":")
    if not colon:
        password = click.prompt(f"Password of {name}", hide_input=True, err=True)
    return aiohttp.encode_basic_auth(name, password)


@cli.command("demo")
@click.option("--keep-running", is_flag=True, help="Stay up until Ctrl-C, to try things out.")
def demo_command(*, keep_running: bool) -> None:
    """Show everything on one machine, without configuration: a relay, three example ERPs, sample webhooks.

    One ERP is out of order at first and one is slow; what went where and what was retried is shown live.
    Exit 0 when everything was delivered.
    """
    with contextlib.suppress(KeyboardInterrupt):  # how --keep-running ends
        if not _run(demo.run(keep_running=keep_running, say=click.echo)):
            sys.exit(1)


@cli.command("hash-password")
def hash_password_command() -> None:
    """Print the hash of a password, for password_hash in the configuration.

    Asks for the password, or reads one line where standard input is not a terminal.

    \b
    Example:
      pwgen 32 1 | tee webhook-password | itscope-relay hash-password
    """
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            password = sys.stdin.buffer.readline().decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise click.UsageError("the password is not UTF-8 text") from error
    if not password:
        raise click.UsageError("the password is empty")
    click.echo(str(hash_password(password, secrets.token_bytes(SALT_BYTES))))


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    \b
    Example:
      itscope-relay schema > config.schema.json
      and as the first line of config.yaml:
      # yaml-language-server: $schema=config.schema.json
    """
    click.echo(json.dumps(json_schema(), indent=2))


def _run(main_coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main_coroutine)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 (optional)
    except ImportError:
        return None
    return uvloop.new_event_loop
