"""Commands that play a part: `send` is ITscope, `demo` is everybody."""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
from typing import Any

import click

from relay.cli.options import login


@click.command()
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
    from relay import samples
    from relay.cli.running import run
    from relay.send import Player

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

    async def play() -> Any:
        async with Player(url, _authorization(user), verify) as player:
            return await player.post_all(bodies, rate)

    report = run(play())
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
    from aiohttp import encode_basic_auth

    given = login(user)
    return None if given is None else encode_basic_auth(*given)


@click.command("demo")
@click.option("--keep-running", is_flag=True, help="Stay up until Ctrl-C, to try things out.")
def demo_command(*, keep_running: bool) -> None:
    """Show everything on one machine, without configuration: a relay, three example ERPs, sample webhooks.

    One ERP is out of order at first and one is slow; what went where and what was retried is shown live.
    Exit 0 when everything was delivered.

    \b
    Examples:
      itscope-relay demo
      itscope-relay demo --keep-running
    """
    from relay import demo
    from relay.cli.running import run

    with contextlib.suppress(KeyboardInterrupt):  # how --keep-running ends
        if not run(demo.run(keep_running=keep_running, say=click.echo)):
            sys.exit(1)
