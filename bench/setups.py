"""How each relay of `peers` is set up and started.

Each authenticates (Basic), lets events of one eventType through and posts them to three receivers, and is
set up as its documentation says, by somebody who wants it fast and keeps what it promises:

- hookspool: its two processes, SQLite with synchronous=FULL as it comes. It answers when an event is stored,
  as the relay does. A source of its template module, one route and two tees, `unwrap`, so that each event is
  a request of its own; a thread for each of the load's connections, or else those beyond would wait; as many
  deliveries at a time as the relay. Once as it comes, delivering each event at once as a batch of its own,
  and once ("hookspool-batched") with what it is made for: what came within a second is one batch, in order.
- Node-RED: HTTP nodes, `httpNodeAuth`, a switch on eventType, three HTTP requests at the same time over
  kept connections. It answers when the three are answered: it stores nothing.
- webhook: runs a script, which is one curl for all three. It would answer before that has run, and start
  processes without bound under load; so it waits for the script (include-command-output-in-response).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import harness, install
from bench.harness import AUTHORIZATION, PASSWORD, PATH, USER

Start = Callable[[Path, list[str]], AbstractContextManager[harness.Process]]

_CONCURRENCY = 8  # of a destination: the relay's default
_TYPE = "INVOICE"
_AT_ONCE = 'key = "eventId"'  # of hookspool: what belongs to one batch, which is delivered in order
_BATCHED = 'key = "literal:itscope"\nquiet_s = 0.2\nmax_s = 1'


def relay(folder: Path, urls: list[str]) -> AbstractContextManager[harness.Process]:
    route = {"name": "invoices", "match": {"eventType": _TYPE}, "to": ["d0", "d1", "d2"]}
    return harness.relay(folder, urls, routes=[route])


@contextlib.contextmanager
def _hookspool(folder: Path, urls: list[str], window: str = _AT_ONCE) -> Iterator[harness.Process]:
    port = harness.free_port()
    folder.mkdir(mode=0o700)
    _write_secret(folder / "basic", AUTHORIZATION.removeprefix("Basic "))
    _write_secret(folder / "signing", "whsec_bWVhc3VyZWQtb25seQ==")
    (folder / "config.toml").write_text(_hookspool_config(folder, port, urls, window), encoding="utf-8")
    command = [str(install.HOOKSPOOL), "--home", str(folder)]
    subprocess.run([*command, "check"], check=True, capture_output=True)  # noqa: S603
    subprocess.run([*command, "migrate"], check=True, capture_output=True)  # noqa: S603
    with (
        _running([*command, "dispatch"], folder / "dispatch.log") as dispatch,
        _running([*command, "intake"], folder / "intake.log", port) as intake,
    ):
        yield harness.Process(intake.pid, port, path="/hooks/itscope", others=(dispatch.pid,))
    shutil.rmtree(folder)


def _hookspool_config(folder: Path, port: int, urls: list[str], window: str) -> str:
    routes = "\n".join(
        f'[[routes]]\nname = "invoices-{number}"\nsource = "itscope"\nmatch = {{ event_type = "{_TYPE}" }}\n'
        f'destination = "d{number}"\n' + ("tee = true\n" if number else "")
        for number in range(len(urls))
    )
    destinations = "\n".join(
        f'[destinations.d{number}]\ntype = "http"\nurl = "{url}"\nallow_insecure = true\nunwrap = true\n'
        f'max_inflight = {_CONCURRENCY}\nsecret = {{ file = "{folder}/signing" }}\n'
        for number, url in enumerate(urls)
    )
    return f"""
[intake]
listen = "127.0.0.1:{port}"
threads = 64
[dispatch]
parallel = {_CONCURRENCY * len(urls)}
[alerts]
dry = true
[sources.itscope]
module = "hookspool.sources.template"
scheme = "shared-secret-header"
header = "Authorization"
prefix = "Basic "
dedup = "eventId"
event_type = "eventType"
attrs = {{ event_type = "eventType" }}
sender_retries = true
{window}
action = "d0"
secrets.secret = {{ file = "{folder}/basic" }}
{routes}
{destinations}
"""


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret, encoding="utf-8")


@contextlib.contextmanager
def _node_red(folder: Path, urls: list[str]) -> Iterator[harness.Process]:
    port, node = harness.free_port(), install.node()
    assert node is not None
    folder.mkdir()
    hashing = f"require({json.dumps(str(install.NODE_RED.parent / 'bcryptjs'))}).hashSync(process.argv[1], 8)"
    hashed = subprocess.run(  # noqa: S603
        [node, "-p", hashing, PASSWORD], check=True, capture_output=True, text=True
    ).stdout.strip()
    settings = {
        "uiPort": port,
        "uiHost": "127.0.0.1",
        "httpAdminRoot": False,  # no editor
        "httpNodeAuth": {"user": USER, "pass": hashed},
        "flowFile": "flows.json",
        "credentialSecret": False,
        "logging": {"console": {"level": "warn", "metrics": False, "audit": False}},
        "telemetry": {"enabled": False},
    }
    (folder / "settings.js").write_text(f"module.exports = {json.dumps(settings)}", encoding="utf-8")
    (folder / "flows.json").write_text(json.dumps(_flow(urls)), encoding="utf-8")
    command = [node, str(install.NODE_RED / "red.js"), "--userDir", str(folder)]
    with _running(command, folder / "log", port, {"NODE_ENV": "production"}) as process:
        harness.wait_until(lambda: _is_flowing(port))
        yield harness.Process(process.pid, port)
    shutil.rmtree(folder)


def _flow(urls: list[str]) -> list[Mapping[str, object]]:
    """Return a flow: in, filter, three requests at the same time, and the answer when all three are done."""
    fan_out = (
        f"const count = {len(urls)};"
        "const headers = {'content-type': 'application/json'};"
        "return [...Array(count).keys()].map(index =>"
        " ({...msg, headers, parts: {id: msg._msgid, type: 'array', index, count}}));"
    )
    requests = [f"request-{number}" for number in range(len(urls))]
    return [
        {"id": "tab", "type": "tab", "label": "relay"},
        _node("in", "http in", ["filter"], url=PATH, method="post"),
        _node(
            "filter",
            "switch",
            ["fan-out"],
            ["unwanted"],
            property="payload.eventType",
            propertyType="msg",
            rules=[{"t": "eq", "v": _TYPE, "vt": "str"}, {"t": "else"}],
            outputs=2,
            checkall="false",
        ),
        _node("fan-out", "function", *([name] for name in requests), func=fan_out, outputs=len(urls)),
        *(
            _node(name, "http request", ["join"], method="POST", url=url, ret="txt", persist=True)
            for name, url in zip(requests, urls, strict=True)
        ),
        _node("join", "join", ["answer"], mode="auto"),
        _node("answer", "http response", statusCode="200"),
        _node("unwanted", "http response", statusCode="200"),
    ]


def _node(name: str, kind: str, *wires: list[str], **options: object) -> Mapping[str, object]:
    outputs = [[f"n-{other}" for other in wire] for wire in wires]  # no id may be the value of an option
    return {"id": f"n-{name}", "type": kind, "z": "tab", "wires": outputs, **options}


def _is_flowing(port: int) -> bool:
    """Tell whether Node-RED takes webhooks, by one that nobody wants."""
    headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}{PATH}"
    try:
        urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=10).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _webhook(folder: Path, urls: list[str]) -> Iterator[harness.Process]:
    port = harness.free_port()
    folder.mkdir()
    script = folder / "forward"
    posts = " ".join(f"-o /dev/null '{url}'" for url in urls)
    script.write_text(
        "#!/bin/sh\nexec curl --silent --no-progress-meter --fail --parallel"
        f" -H 'Content-Type: application/json' --data-raw \"$BODY\" {posts}\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    matches = [
        _match(AUTHORIZATION, "header", "Authorization"),
        _match(_TYPE, "payload", "eventType"),
    ]
    hook = {
        "id": "itscope",
        "execute-command": str(script),
        "http-methods": ["POST"],
        "include-command-output-in-response": True,
        "pass-environment-to-command": [{"source": "raw-request-body", "envname": "BODY"}],
        "trigger-rule": {"and": matches},
        "trigger-rule-mismatch-http-response-code": 401,
    }
    (folder / "hooks.json").write_text(json.dumps([hook]), encoding="utf-8")
    command = [str(install.WEBHOOK), "-hooks", str(folder / "hooks.json"), "-ip", "127.0.0.1"]
    with _running([*command, "-port", str(port)], folder / "log", port) as process:
        yield harness.Process(process.pid, port, path="/hooks/itscope")
    shutil.rmtree(folder)


def _match(value: str, source: str, name: str) -> Mapping[str, object]:
    return {"match": {"type": "value", "value": value, "parameter": {"source": source, "name": name}}}


@contextlib.contextmanager
def _running(
    command: list[str], log: Path, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; enter it when it listens on a port."""
    variables = {**os.environ, **(environment or {})}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=variables) as process,  # noqa: S603
    ):
        try:
            harness.wait_until(lambda: port is None or _listens(port), 30)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


PEERS: dict[str, tuple[Path, Start]] = {
    "hookspool": (install.HOOKSPOOL, _hookspool),
    "hookspool-batched": (install.HOOKSPOOL, partial(_hookspool, window=_BATCHED)),
    "node-red": (install.NODE_RED, _node_red),
    "webhook": (install.WEBHOOK, _webhook),
}
