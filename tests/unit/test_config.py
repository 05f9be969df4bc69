"""From YAML to a configuration, or to every problem with its place."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from psycopg.conninfo import conninfo_to_dict

from relay.breaker import BreakerPolicy
from relay.config import (
    BasicCredentials,
    BearerCredentials,
    Config,
    HeaderCredentials,
    load,
    split_address,
    suggestion,
)
from relay.errors import ConfigError
from relay.hold import parse_window
from relay.pace import Rate
from relay.passwords import PasswordHash

SECRET = "hunter2-Zq8"
MINIMAL = f"""\
sources:
  itscope:
    auth:
      - username: itscope
        password: {SECRET}
destinations:
  erp:
    url: https://erp.example/api
routes:
  - to: [erp]
"""
PASSWORD_LINE = f"        password: {SECRET}"
HASH = "$scrypt$ln=10,r=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43


# What messages say in more than one place.
DIFFERENTLY = "differently: quote it, or write true, false or a plain number"
A_DURATION = "write a duration as a number and a unit, such as 500ms, 30s, 10m, 2h or 3d"
A_SIZE = "write a size as a whole number above zero and a unit, such as 64KiB or 1MiB"
A_STORE = (
    "write sqlite:///PATH, such as sqlite:///relay.db or sqlite:////var/lib/relay.db,"
    " or postgresql://USER@HOST/DATABASE, such as postgresql://relay@db.example.internal/relay"
)
NO_ALIASES = "aliases (*name) are not supported; write the value out, or quote a text that starts with *"
NO_TAGS = "tags (!name) are not supported; quote a text that starts with !"
NO_NESTING = "a ${ can't stand within another ${...}; a default is a plain text"
NOT_YOURS = "is set by the relay; use another name"
A_VARIABLE = "write a variable as ${NAME} or ${NAME:-default}, and a literal ${ as $${"
A_URL = "write a full URL, such as https://erp.example.internal/api/itscope"
AN_ADDRESS = "write an address as host:port, such as 0.0.0.0:8080 or [::1]:8080"
NO_HASH = "not a password hash; make one with `itscope-relay hash-password`"
ONE_PASSWORD = "of password, password_file, password_hash"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that messages name files and not their places on this machine."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, **environment: str) -> Config:
    Path("config.yaml").write_text(text, encoding="utf-8")
    return load(Path("config.yaml"), environment)


def problems(text: str | bytes, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with a file, without its name."""
    Path("config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as refused:
        load(Path("config.yaml"), environment or {})
    assert str(refused.value) == "\n".join(refused.value.problems)
    return [problem.removeprefix("config.yaml:") for problem in refused.value.problems]


def with_password(text: str) -> str:
    """Return the minimal configuration with other lines in place of the password's."""
    return MINIMAL.replace(PASSWORD_LINE, text)


def with_destination(text: str) -> str:
    """Return the minimal configuration with one more line in the destination: line 9."""
    return MINIMAL.replace("routes:\n", f"    {text}\nroutes:\n")


def with_store(url: str, more: str = "retention: 90d") -> str:
    """Return the minimal configuration with a store in its last line, 11, its URL from column 14 on."""
    return f"{MINIMAL}store: {{url: '{url}', {more}}}\n"


# ---- defaults


def test_section_with_every_line_commented_out_has_its_defaults(tmp_path: Path) -> None:
    text = MINIMAL + "server:\n  # listen: 0.0.0.0:8080\nadmin:\n"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "config.yaml", {}).server.listen == "0.0.0.0:8080"


def test_every_default_is_the_documented_one() -> None:
    config = read(MINIMAL)
    server, admin, store = config.server, config.admin, config.store
    assert (server.listen, server.tls, server.max_body) == ("0.0.0.0:8080", None, 1 << 20)
    assert server.trusted_proxies == ()
    assert (admin.listen, admin.auth) == ("127.0.0.1:8081", ())
    assert (store.path, store.retention) == (Path("relay.db"), timedelta(days=90))
    assert config.paths == {"/webhooks/itscope": "itscope"}
    erp = config.destinations["erp"]
    assert (erp.method, erp.auth, erp.headers) == ("POST", None, {})
    assert (erp.timeout, erp.concurrency) == (timedelta(seconds=30), 8)
    assert erp.success == set(range(200, 300))
    assert erp.reject == {400, 410, 413, 415, 422}
    assert (erp.retry.initial, erp.retry.factor, erp.retry.max, erp.retry.give_up_after) == (
        timedelta(seconds=1),
        2,
        timedelta(minutes=10),
        timedelta(days=3),
    )
    assert (erp.breaker, erp.rate_limit, erp.hold) == (None, None, ())
    assert (erp.order_by, erp.on_dead, erp.policy.holds_when_dead) == (None, "hold", False)
    (route,) = config.routes
    assert (route.name, route.match, route.except_, route.stop) == ("routes[0]", {}, {}, False)


def test_every_key_of_the_contract_is_read(folder: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("relay.example")
    certificate.private_key_and_cert_chain_pem.write_to_path("both.pem")
    (folder / "erp").write_text("from-file\n", encoding="utf-8")
    config = read(
        f"""\
server:
  listen: "[::]:8443"
  tls: {{cert_file: both.pem, key_file: both.pem}}
  max_body: 64KiB
admin:
  listen: 0.0.0.0:9090
  auth: [{{username: admin, password_hash: '{HASH}'}}]
store: {{url: sqlite:////var/lib/relay.db, retention: 30d}}
sources:
  itscope:
    path: /hooks/it-scope
    auth:
      - {{username: itscope, password: "${{OLD}}"}}
      - {{username: itscope, password_file: erp}}
  other: {{auth: [{{username: o, password: 12345}}]}}
destinations:
  erp:
    url: http://10.0.0.5:8000/a?b=c
    method: PUT
    auth: {{type: basic, username: relay, password_file: erp}}
    headers: {{X-Company: "100", X-Number: 100}}
    timeout: 500ms
    concurrency: 1
    success: [2xx, 409]
    reject: []
    retry: {{initial: 2s, factor: 1.5, max: 1h, give_up_after: 1d}}
    breaker: {{failures: 3, cooldown: 1m, max_cooldown: 1h}}
    order_by: orderId
    on_dead: continue
    rate_limit: 100/min burst 10
    hold: [Sun 02:00-05:00 Europe/Berlin, "Sat,Sun 23:00-01:00 UTC"]
  crm: {{url: "https://crm", auth: {{type: bearer, token: t}}}}
  bi: {{url: "https://bi", auth: {{type: header, name: X-Api-Key, value: v}}}}
routes:
  - name: all
    match: {{eventType: [ORDER, 5, true], source: itscope}}
    except: {{orderId: "*SAMPLE*"}}
    to: [erp, crm, bi]
    stop: true
""",
        OLD="old",
    )
    assert split_address(config.server.listen) == ("::", 8443)
    assert config.server.tls is not None
    assert (config.server.tls.cert_file, config.server.tls.key_file) == (Path("both.pem"), Path("both.pem"))
    assert (config.server.max_body, config.store.path) == (65536, Path("/var/lib/relay.db"))
    assert isinstance(config.admin.auth[0].secret, PasswordHash)
    assert config.paths == {"/hooks/it-scope": "itscope", "/webhooks/other": "other"}
    assert [account.secret for account in config.sources["itscope"].auth] == ["old", "from-file"]
    assert config.sources["other"].auth[0].secret == "12345"
    erp, crm, bi = (config.destinations[name] for name in ("erp", "crm", "bi"))
    assert erp.headers == {"X-Company": "100", "X-Number": "100"}
    assert erp.success == {*range(200, 300), 409}
    assert erp.policy.retry.give_up_after == timedelta(days=1)
    assert erp.breaker == BreakerPolicy(3, timedelta(minutes=1), timedelta(hours=1))
    assert (erp.order_by, erp.on_dead, erp.rate_limit) == ("orderId", "continue", Rate(100, 60, 10))
    assert erp.hold == (
        parse_window("Sun 02:00-05:00 Europe/Berlin"),
        parse_window("Sat,Sun 23:00-01:00 UTC"),
    )
    assert isinstance(erp.auth, BasicCredentials)
    assert isinstance(crm.auth, BearerCredentials)
    assert isinstance(bi.auth, HeaderCredentials)
    assert [auth.secret for auth in (erp.auth, crm.auth, bi.auth)] == ["from-file", "t", "v"]
    (route,) = config.routes
    assert route.match == {"eventType": ("ORDER", "5", "true"), "source": ("itscope",)}
    assert (route.name, route.stop) == ("all", True)


def test_files_named_in_the_configuration_are_relative_to_it(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "secret").write_text("s3cret\r\n", encoding="utf-8")
    text = with_password("        password_file: secret")
    (folder / "conf" / "relay.yaml").write_text(text, encoding="utf-8")
    config = load(Path("conf/relay.yaml"), {})
    assert config.store.path == Path("conf/relay.db")
    assert config.sources["itscope"].auth[0].secret == "s3cret"


# ---- what is wrong, and where


UNKNOWN_TOP = "known are admin, destinations, notify, routes, server, sources, store"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # misspelt keys
        (MINIMAL + "sever: {}\n", ["11:1: sever: is not a known key; did you mean server?"]),
        (MINIMAL + "x: 1\n", [f"11:1: x: is not a known key; {UNKNOWN_TOP}"]),
        (
            MINIMAL + "server:\n  listn: 0.0.0.0:80\n",
            ["12:3: server.listn: is not a known key; did you mean listen?"],
        ),
        (
            with_destination("retry: {intial: 1s}"),
            ["9:13: destinations.erp.retry.intial: is not a known key; did you mean initial?"],
        ),
        (
            MINIMAL + "server: {tls: {cert_file: c, key_fil: k, key_file: k}}\n",
            ["11:30: server.tls.key_fil: is not a known key; did you mean key_file?"],
        ),
        (
            with_destination("auth: {type: basic, username: u, pasword: p, password: p}"),
            ["9:38: destinations.erp.auth.pasword: is not a known key; did you mean password?"],
        ),
        (
            MINIMAL.replace("- to:", "- mach: {a: b}\n    to:"),
            ["10:5: routes[0].mach: is not a known key; did you mean match?"],
        ),
        (
            with_password("        passwort: x"),
            [
                "5:9: sources.itscope.auth[0].passwort: is not a known key; did you mean password?",
            ],
        ),
        # unknown destinations, names
        (
            MINIMAL.replace("[erp]", "[erp, epr]"),
            ["10:15: routes[0].to[1]: there is no destination epr; did you mean erp?"],
        ),
        (
            MINIMAL.replace("[erp]", "[crm]"),
            ["10:10: routes[0].to[0]: there is no destination crm; known are erp"],
        ),
        (
            MINIMAL.replace("  erp:", "  'e r p':").replace("[erp]", "['e r p']"),
            ["7:3: destinations.e r p: a name has letters, digits and ._- only, and at most 64 of them"],
        ),
        # missing
        ("server: {}\n", [f"1:1: {key}: is required" for key in ("sources", "destinations", "routes")]),
        (
            MINIMAL.replace("    url: https://erp.example/api", "    timeout: 1s"),
            ["8:5: destinations.erp.url: is required"],
        ),
        (MINIMAL.replace("to: [erp]", "name: x"), ["10:5: routes[0].to: is required"]),
        (MINIMAL.replace("to: [erp]", "to: []"), ["10:9: routes[0].to: must not be empty"]),
        (
            MINIMAL.replace("  - to: [erp]", "  []"),
            ["10:3: routes: must have at least one entry"],
        ),
        (
            "sources: {}\ndestinations: {}\nroutes: []\n",
            [
                "1:10: sources: must not be empty",
                "2:15: destinations: must not be empty",
                "3:9: routes: must have at least one entry",
            ],
        ),
        # kinds of values
        (MINIMAL + "admin: [1]\n", ["11:8: admin: must be a mapping"]),
        (MINIMAL.replace("to: [erp]", "to: erp"), ["10:9: routes[0].to: must be a list"]),
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], stop: 1}"),
            ["10:23: routes[0].stop: must be true or false"],
        ),
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], match: [a]}"),
            ["10:24: routes[0].match: must be a mapping"],
        ),
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], match: {a: null}}"),
            ["10:28: routes[0].match.a: write a text, number or boolean, or a list of at least one of them"],
        ),
        (
            with_destination("concurrency: '8'"),
            ["9:18: destinations.erp.concurrency: must be a whole number, without quotes"],
        ),
        (
            with_destination("timeout: 30"),
            [f"9:14: destinations.erp.timeout: {A_DURATION}"],
        ),
        (
            with_destination("success: [2xx, 9xx]"),
            [
                (
                    "9:14: destinations.erp.success: '9xx' is neither a status code such as 409"
                    " nor a class such as 2xx"
                )
            ],
        ),
        (
            with_destination("auth: {type: digest}"),
            ["9:11: destinations.erp.auth: must have a type: basic, bearer or header"],
        ),
        (
            with_destination("auth: {username: u}"),
            ["9:11: destinations.erp.auth: must have a type: basic, bearer or header"],
        ),
        (
            with_password("        password: 1.5"),
            ["5:19: sources.itscope.auth[0].password: must be a text; put a number in quotes"],
        ),
        (
            MINIMAL + "server: {max_body: 1MB}\n",
            [f"11:20: server.max_body: {A_SIZE}"],
        ),
        (
            MINIMAL + "server: {listen: ':8080'}\n",
            [f"11:18: server.listen: {AN_ADDRESS}"],
        ),
        (
            MINIMAL + "store: {url: redis://x}\n",
            [f"11:14: store.url: {A_STORE}"],
        ),
        # twice
        (
            with_destination("url: https://x"),
            ["9:5: destinations.erp.url: given twice, first at line 8"],
        ),
        (
            MINIMAL.replace("- to: [erp]", "- {name: a, to: [erp]}\n  - {name: a, to: [erp]}"),
            ["11:12: routes[1].name: a is used twice, first at config.yaml:10:12"],
        ),
        (
            MINIMAL.replace("- to: [erp]", '- {name: "a\\0b", to: [erp]}'),
            ["10:12: routes[0].name: must be a text of one line"],
        ),
        (
            MINIMAL.replace("- to: [erp]", f"- {{name: {'a' * 256}, to: [erp]}}"),
            ["10:12: routes[0].name: string should have at most 255 characters"],
        ),
        (
            MINIMAL.replace(
                "destinations:",
                "  other: {path: /webhooks/itscope, auth: [{username: u, password: p}]}\ndestinations:",
            ),
            ["6:10: sources.other: has the same path /webhooks/itscope as sources.itscope"],
        ),
        # what is surprising about YAML
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], match: {country: NO}}"),
            [f"10:34: routes[0].match.country: YAML versions read NO {DIFFERENTLY}"],
        ),
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], stop: on}"),
            [f"10:23: routes[0].stop: YAML versions read on {DIFFERENTLY}"],
        ),
        *(
            (
                MINIMAL.replace("to: [erp]", f"{{to: [erp], match: {{a: {number}}}}}"),
                [f"10:28: routes[0].match.a: YAML versions read this number {DIFFERENTLY}"],
            )
            for number in ("010", "12:30:45", "1_000", "0x1F", "0o17")
        ),
        (
            MINIMAL.replace("to: [erp]", "{to: [erp], match: {on: x}}"),
            ["10:25: routes[0].match.on: quote the key on: YAML versions read it differently"],
        ),
        (
            MINIMAL.replace("to: [erp]", "&a {to: [erp]}\n  - *a"),
            [f"10:5: routes[1]: {NO_ALIASES}"],
        ),
        (
            with_password(f"        password: *{SECRET}"),
            [f"5:19: {NO_ALIASES}"],
        ),
        *(
            (
                MINIMAL.replace("to: [erp]", f"to: {tag} [erp]"),
                [f"10:9: routes[0].to: {NO_TAGS}"],
            )
            for tag in ("!x", "!!set", "!!python/object:os.system", "!!binary", "!<tag:x.org,2000:y>")
        ),
        (
            with_password("        password: !x y"),
            [f"5:19: sources.itscope.auth[0].password: {NO_TAGS}"],
        ),
        (
            "a: {password: ${NAME}}\n",
            [
                (
                    "1:16: not valid YAML: expected ',' or '}', but got '{'; within braces or brackets,"
                    " quote a text with ${NAME}"
                )
            ],
        ),
        (MINIMAL + "---\na: 1\n", ["11:1: a second document (---) starts here; write only one"]),
        (MINIMAL + "? [a]\n: 1\n", ["11:3: a key must be a plain text"]),
        (MINIMAL + "<<: {server: {}}\n", [f"11:1: <<: is not a known key; {UNKNOWN_TOP}"]),
        # no YAML, no configuration
        ("", ["1:1: the configuration is empty"]),
        ("# only a comment\n", ["1:1: the configuration is empty"]),
        ("- 1\n", ["1:1: must be a mapping"]),
        ("hello\n", ["1:1: must be a mapping"]),
        ("a: 'b\n", ["2:1: not valid YAML: found unexpected end of stream"]),
        ("a: [1\n", ["2:1: not valid YAML: expected ',' or ']', but got '<stream end>'"]),
        ("a:\n\tb: 1\n", ["2:1: not valid YAML: found character '\\t' that cannot start any token"]),
        (
            b"a: \x00\n",
            ["1:1: not valid YAML: unacceptable character #x0000: special characters are not allowed"],
        ),
        (b"\x7fELF\xff\xfe\x00", ["1:5: is not UTF-8 text"]),
        ("a: ü\r\nß: ".encode() + b"\xfc\n", ["2:4: is not UTF-8 text"]),
        (b"\xff\n", ["1:1: is not UTF-8 text"]),
        (b"a:\n\xff\n", ["2:1: is not UTF-8 text"]),
        ('a: "\\UFFFFFFFF"\n', ["1:1: not valid YAML: an escaped character doesn't exist"]),
        (
            with_password('        password: "\\ud800"'),
            ["5:19: sources.itscope.auth[0].password: is not valid Unicode text"],
        ),
        (
            MINIMAL.replace("to: [erp]", "to: [erp, 5]"),
            ["10:15: routes[0].to[1]: must be a text; put a number in quotes"],
        ),
        ("a: 1\n" + "#" * (1 << 20), ["1:1: the file is larger than 1 MiB"]),
        (MINIMAL + "#" + "ü" * (1 << 19), ["1:1: the file is larger than 1 MiB"]),
        (
            with_destination("success: []"),
            ["9:14: destinations.erp.success: must have at least one entry"],
        ),
    ],
)
def test_problem_is_named_with_its_place(text: str | bytes, expected: list[str]) -> None:
    assert problems(text) == expected


def test_all_problems_are_reported_together_in_the_order_of_the_file() -> None:
    text = """\
sever: {}
server: {listen: 8080, max_body: 1MB}
sources:
  itscope: {auth: [{username: "a:b", password: "${MISSING}"}]}
destinations:
  erp: {url: ftp://x, timeout: 5, timeot: 5s, headers: {Host: x}}
routes:
  - to: [epr]
  - {to: [erp], stop: yes, match: {a: 010}}
"""
    assert problems(text) == [
        "1:1: sever: is not a known key; did you mean server?",
        "2:18: server.listen: must be a text; put a number in quotes",
        f"2:34: server.max_body: {A_SIZE}",
        "4:31: sources.itscope.auth[0].username: must not hold a colon",
        "4:48: sources.itscope.auth[0].password: the environment variable MISSING is not set",
        f"6:14: destinations.erp.url: {A_URL}",
        f"6:32: destinations.erp.timeout: {A_DURATION}",
        "6:35: destinations.erp.timeot: is not a known key; did you mean timeout?",
        f"6:57: destinations.erp.headers.Host: the header Host {NOT_YOURS}",
        "8:10: routes[0].to[0]: there is no destination epr; did you mean erp?",
        f"9:23: routes[1].stop: YAML versions read yes {DIFFERENTLY}",
        f"9:39: routes[1].match.a: YAML versions read this number {DIFFERENTLY}",
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            with_destination('headers: {"X-A\\nB": a}'),
            r"9:15: destinations.erp.headers.X-A\nB: a header's name",
        ),
        (MINIMAL + '"a\\u2028b": 1\n', r"11:1: a\u2028b: is not a known key"),
        (MINIMAL.replace("[erp]", '["a\\rb"]'), r"10:10: routes[0].to[0]: there is no destination a\rb"),
        (
            with_password('        password_file: "a\\nb"'),
            "5:24: sources.itscope.auth[0].password_file: can't read a\\nb",
        ),
    ],
)
def test_problem_is_one_line_whatever_it_names(text: str, start: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(start)
    assert problem.isprintable()


def test_deep_nesting_is_refused() -> None:
    found = problems("a: " + "[" * 40 + "]" * 40)
    assert any(problem.endswith("nested deeper than 30 levels") for problem in found)
    assert problems("[" * 2000)[0].startswith("1:1: nested deeper than 30 levels")


def test_endless_alias_is_refused() -> None:
    assert "aliases (*name) are not supported" in problems("a: &a [*a]\n")[-1]


def test_missing_file_and_folder_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: can't be read: no such file or directory$"):
        load(Path("nowhere.yaml"), {})
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^empty: the folder holds no \*\.yaml$"):
        load(Path("empty"), {})


# ---- the environment


@pytest.mark.parametrize(
    ("written", "environment", "password"),
    [
        ("${P}", {"P": "x"}, "x"),
        ("a${P}b${P}c", {"P": "x"}, "axbxc"),
        ("'${P}'", {"P": "x"}, "x"),
        ("${P}", {"P": "010"}, "010"),
        ("${P}", {"P": "{a: !b *c}"}, "{a: !b *c}"),
        ("${P}", {"P": "${Q}", "Q": "never"}, "${Q}"),
        ("${P:-default}", {}, "default"),
        ("${P:-default}", {"P": ""}, "default"),
        ("${P:-default}", {"P": "x"}, "x"),
        ("${P:-a b:c-d$}", {}, "a b:c-d$"),
        ("$${P}", {"P": "x"}, "${P}"),
        ("$$${P}", {"P": "x"}, "$${P}"),
        ("$P a$", {"P": "x"}, "$P a$"),
        ("$$", {}, "$$"),
    ],
)
def test_variables_are_expanded(written: str, environment: Mapping[str, str], password: str) -> None:
    config = read(with_password(f"        password: {written}"), **environment)
    assert config.sources["itscope"].auth[0].secret == password


def test_missing_variable_is_named() -> None:
    assert problems(with_password("        password: ${ITSCOPE_PASSWORD}")) == [
        "5:19: sources.itscope.auth[0].password: the environment variable ITSCOPE_PASSWORD is not set"
    ]


def test_empty_secret_is_refused() -> None:
    text = with_password("        password: ${P}")
    assert problems(text, {"P": ""}) == [
        "5:19: sources.itscope.auth[0].password: the environment variable P is empty"
    ]


@pytest.mark.parametrize("written", ["${}", "${a-b}", "${1A}", "${P:default}", "x${", "${P"])
def test_malformed_variable_is_explained(written: str) -> None:
    assert problems(with_password(f"        password: '{written}'"), {"P": "x"}) == [
        f"5:19: sources.itscope.auth[0].password: {A_VARIABLE}"
    ]


@pytest.mark.parametrize("written", ["${P:-${Q:-c}}", "${P:-${Q}}", "${P:-a${", "${P:-$${Q}", "x${P${Q}}"])
def test_variable_within_a_variable_is_refused(written: str) -> None:
    assert problems(with_password(f"        password: '{written}'"), {"P": "x", "Q": "y"}) == [
        f"5:19: sources.itscope.auth[0].password: {NO_NESTING}"
    ]


def test_default_that_is_empty_leaves_nothing() -> None:
    config = read(with_destination('headers: {X-A: "a${P:-}b"}'))
    assert config.destinations["erp"].headers == {"X-A": "ab"}


# ---- secrets


def test_missing_secret_file_is_named() -> None:
    assert problems(with_password("        password_file: /nowhere/secret")) == [
        "5:24: sources.itscope.auth[0].password_file: can't read /nowhere/secret: no such file or directory"
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "secret is empty"),
        (b"\n", "secret is empty"),
        (b"\xff", "secret is not UTF-8 text"),
        (b"x" * 65537, "secret is too large for a secret"),
    ],
)
def test_unusable_secret_file_is_refused(folder: Path, content: bytes, problem: str) -> None:
    (folder / "secret").write_bytes(content)
    found = problems(with_password("        password_file: secret"))
    assert found == [f"5:24: sources.itscope.auth[0].password_file: {problem}"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", f"give one {ONE_PASSWORD}"),
        (
            f"password: {SECRET}, password_hash: '{HASH}'",
            f"give only one {ONE_PASSWORD}",
        ),
        (
            "password_hash: 5f4dcc3b5aa765d61d8327deb882cf99",
            NO_HASH,
        ),
        (
            "password_hash: '$scrypt$ln=31,r=8,p=1$AAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA'",
            "the costs of this password hash are out of bounds (ln=10..17 with r=8, p=1)",
        ),
    ],
)
def test_account_has_one_usable_password(lines: str, problem: str) -> None:
    text = with_password("").replace("- username: itscope", f"- {{username: itscope, {lines}}}")
    assert problems(text) == [f"4:9: sources.itscope.auth[0]: {problem}"]


@pytest.mark.parametrize(
    "text",
    [
        with_password(f"        password: {SECRET}\n        password_file: nowhere"),
        with_password(f"        password: {SECRET}\n        password_hash: {SECRET}"),
        with_password(f"        password: [{SECRET}]"),
        with_password(f"        password: {{{SECRET}: {SECRET}}}"),
        with_password(f"        password: *{SECRET}"),
        with_password(f"        password: !{SECRET}"),
        with_password(f"        password: !x!{SECRET} y"),
        with_password(f"        password: !{SECRET}!x y"),
        with_password(f"        password: ${{{SECRET}"),
        with_password(f"        password: x${{{SECRET}}}"),
        with_password(f"        password: '{SECRET}"),
        with_password(f'        password: "{SECRET}\\q"'),
        with_password(f"        password: {SECRET}: {SECRET}"),
        with_password(f"        password: @{SECRET}"),
        with_password(f"        password: %{SECRET}"),
        with_password(f"        password: |{SECRET}"),
        with_password(f'        password: "\\ud800{SECRET}"'),
        with_password(f"        password: {SECRET}\n        password: {SECRET}"),
        with_password(f"        password_hash: {SECRET}"),
        with_destination(f"auth: {{type: basic, username: u, password: [{SECRET}]}}"),
        with_destination(f'auth: {{type: bearer, token: "{SECRET}\\n"}}'),
        with_destination(f"auth: {{type: bearer, token: {SECRET}, token_file: nowhere}}"),
        with_destination(f'auth: {{type: header, name: X-Key, value: "{SECRET}ü"}}'),
        with_destination(f"auth: {{type: header, name: Host, value: {SECRET}}}"),
        with_destination(f"auth: {{type: oauth, token: {SECRET}}}"),
        MINIMAL.replace("https://", f"https://relay:{SECRET}@"),
        MINIMAL.replace("https://", f"ftp://relay:{SECRET}@"),
        with_store(f"postgresql://relay:{SECRET}@db/relay"),
        with_store(f"mysql://relay:{SECRET}@db/relay"),
        with_store(f"postgresql://relay:1/{SECRET}@db/relay"),
        with_store(f"postgresql://relay:1/relay?{SECRET}=@db/relay"),
        with_store(f"postgresql://relay@db/relay?password={SECRET}"),
        with_store(f"postgresql://relay@db/relay?sslpassword={SECRET}"),
        with_store("sqlite:///relay.db", f"password: {SECRET}"),
        with_store("postgresql://relay@db/relay", f"password: {SECRET}, password_file: config.yaml"),
        MINIMAL.replace("https://erp.example/api", f"'https://u:{SECRET}@erp:port'"),
        MINIMAL + "x: 1\n",
    ],
)
def test_secret_is_never_in_an_error(text: str) -> None:
    assert SECRET not in "\n".join(problems(text))


@pytest.mark.parametrize("digits", ["0123456", "12:34:56", "1_234_567", "0x7f7f7f"])
def test_password_of_digits_is_never_in_an_error(digits: str) -> None:
    (problem,) = problems(with_password(f"        password: {digits}"))
    assert digits not in problem


def test_secret_is_never_in_a_representation(folder: Path) -> None:
    (folder / "secret").write_text(SECRET, encoding="utf-8")
    text = MINIMAL.replace("https://erp.example/api", "https://erp.example/api\n    auth: {}")
    for auth in (
        f"{{type: basic, username: u, password: {SECRET}}}",
        f"{{type: bearer, token: {SECRET}}}",
        "{type: header, name: X-Key, value_file: secret}",
    ):
        config = read(text.replace("auth: {}", f"auth: {auth}"))
        shown = f"{config!r} {config} {config.destinations['erp']!r} {config.model_dump_json()}"
        assert SECRET not in shown
    for password in (f"password: {SECRET}", "password_file: secret"):
        config = read(with_store("postgresql://relay@db/relay", password))
        assert SECRET in config.store.conninfo()
        assert SECRET not in f"{config!r} {config} {config.store!r} {config.model_dump_json()}"


# ---- rules between keys


@pytest.mark.parametrize("listen", ["0.0.0.0:8081", "'[::]:8081'", "10.0.0.5:8081", "relay.example:8081"])
def test_admin_off_loopback_needs_credentials(listen: str) -> None:
    assert problems(f"{MINIMAL}admin: {{listen: {listen}}}\n") == [
        "11:8: admin: auth is required, as listen is not a loopback address"
    ]
    account = f"[{{username: admin, password: {SECRET}}}]"
    assert read(f"{MINIMAL}admin: {{listen: {listen}, auth: {account}}}\n").admin.auth


def with_accounts(*accounts: str) -> str:
    return f"{MINIMAL}admin:\n  auth:\n" + "".join(f"  - {{{account}}}\n" for account in accounts)


def test_admin_is_an_operator_unless_called_a_viewer() -> None:
    text = with_accounts(
        f"username: a, password: {SECRET}",
        f"username: b, password: {SECRET}, role: viewer",
        f"username: c, password: {SECRET}, role: operator",
    )
    assert read(text).admin.roles == {"a": "operator", "b": "viewer", "c": "operator"}


def test_password_of_a_viewer_can_be_rotated() -> None:
    text = with_accounts(
        "username: a, password: new, role: viewer", "username: a, password: old, role: viewer"
    )
    assert read(text).admin.roles == {"a": "viewer"}


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        (
            ["username: a, password: new, role: viewer", "username: a, password: old"],
            "12:3: admin: auth: a has two roles; give its accounts the same",
        ),
        (["username: a, password: x, role: admin"], "13:38: admin.auth[0].role: must be operator or viewer"),
        (
            ["username: a, password: x, rolle: viewer"],
            "13:32: admin.auth[0].rolle: is not a known key; did you mean role?",
        ),
    ],
)
def test_role_is_checked(accounts: list[str], expected: str) -> None:
    assert problems(with_accounts(*accounts)) == [expected]


def test_source_knows_no_roles() -> None:
    known = "known are password, password_file, password_hash, username"
    assert problems(with_password("        role: viewer")) == [
        f"5:9: sources.itscope.auth[0].role: is not a known key; {known}"
    ]


@pytest.mark.parametrize("listen", ["127.0.0.1:8081", "127.0.0.2:0", "'[::1]:8081'", "localhost:8081"])
def test_admin_on_loopback_needs_none(listen: str) -> None:
    assert read(f"{MINIMAL}admin: {{listen: {listen}}}\n").admin.auth == ()


def test_listeners_have_addresses_of_their_own() -> None:
    def both(address: str) -> str:
        return f"{MINIMAL}server: {{listen: {address}}}\nadmin: {{listen: {address}}}\n"

    assert problems(both("127.0.0.1:8080")) == [
        "12:17: admin.listen: must not be the address of server.listen"
    ]
    assert read(both("127.0.0.1:0")).admin.listen == "127.0.0.1:0"
    other = read(both("127.0.0.1:8080").replace("admin: {listen: 127.0.0.1", "admin: {listen: 127.0.0.2"))
    assert other.admin.listen == "127.0.0.2:8080"


@pytest.mark.parametrize("url", ["https://relay:x@erp.example/api", "https://relay@erp.example/api"])
def test_url_with_credentials_is_refused(url: str) -> None:
    assert problems(MINIMAL.replace("https://erp.example/api", url)) == [
        "8:10: destinations.erp.url: credentials don't belong into the URL; write them under auth"
    ]


@pytest.mark.parametrize(
    "url",
    [
        "erp.example",
        "/api",
        "https://",
        "https:///api",
        "file:///etc/passwd",
        "https://erp:0/",
        "'http://a b/'",
        "http://a..b/x",
        "https://.erp.example/",
        f"https://{'a' * 64}.example/",
    ],
)
def test_unusable_url_is_refused(url: str) -> None:
    assert problems(MINIMAL.replace("https://erp.example/api", url)) == [
        f"8:10: destinations.erp.url: {A_URL}"
    ]


@pytest.mark.parametrize(
    "name", ["Host", "content-type", "Content-Length", "Idempotency-Key", "X-ITscope-Event-Id", "X-Relay-X"]
)
def test_header_that_the_relay_sets_is_refused(name: str) -> None:
    assert problems(with_destination(f"headers: {{X-A: a, {name}: x}}")) == [
        f"9:23: destinations.erp.headers.{name}: the header {name} {NOT_YOURS}"
    ]
    assert problems(with_destination(f"auth: {{type: header, name: {name}, value: x}}")) == [
        f"9:32: destinations.erp.auth.name: the header {name} {NOT_YOURS}"
    ]


def test_authorization_is_a_matter_of_auth() -> None:
    header = "{type: header, name: authorization, value: x}"
    assert isinstance(read(with_destination(f"auth: {header}")).destinations["erp"].auth, HeaderCredentials)
    for auth in ("{type: basic, username: u, password: x}", "{type: bearer, token: x}", header, "null"):
        assert problems(with_destination(f"auth: {auth}\n    headers: {{authorization: x}}")) == [
            "10:15: destinations.erp.headers.authorization: write the header authorization under auth"
        ]


def test_problems_of_headers_are_reported_together() -> None:
    line = 'headers: {Host: x, X-Relay-Foo: a, authorization: s, X-U: "ü", X-V: [], x-u: a}'
    where = "destinations.erp.headers"
    assert problems(with_destination(line)) == [
        f"9:15: {where}.Host: the header Host {NOT_YOURS}",
        f"9:24: {where}.X-Relay-Foo: the header X-Relay-Foo {NOT_YOURS}",
        f"9:40: {where}.authorization: write the header authorization under auth",
        f"9:63: {where}.X-U: a header's value must be printable ASCII",
        f"9:73: {where}.X-V: must be a text; put a number in quotes",
        f"9:77: {where}.x-u: is the same header as {where}.X-U; case doesn't count",
    ]


def test_header_is_given_once_whatever_its_case() -> None:
    erp = "destinations.erp"
    assert problems(with_destination("headers: {X-A: a, X-B: b, x-a: a}")) == [
        f"9:31: {erp}.headers.x-a: is the same header as {erp}.headers.X-A; case doesn't count"
    ]
    auth = "auth: {type: header, name: x-a, value: b}"
    assert problems(with_destination(f"{auth}\n    headers: {{X-B: b, X-A: a}}")) == [
        f"10:23: {erp}.headers.X-A: is the same header as {erp}.auth.name; case doesn't count"
    ]
    other = problems(with_destination("auth: {type: bearer, token: b, name: x-a}\n    headers: {X-A: a}"))
    assert [problem.partition(": ")[2].partition(": ")[0] for problem in other] == [f"{erp}.auth.name"]
    assert read(with_destination(f"{auth}\n    headers: {{X-B: b}}")).destinations["erp"].headers
    assert len(problems(with_destination('headers: {"": a}'))) == 1


def test_header_that_could_break_a_request_is_refused() -> None:
    assert problems(with_destination('headers: {"X A": x, X-B: "a\\r\\nb", X-C: "ü"}')) == [
        ("9:15: destinations.erp.headers.X A: a header's name has letters, digits and !#$%&'*+.^_`|~- only"),
        "9:30: destinations.erp.headers.X-B: a header's value must be printable ASCII",
        "9:45: destinations.erp.headers.X-C: a header's value must be printable ASCII",
    ]


@pytest.mark.parametrize("line", ["breaker: {}", "breaker: {failures: 5}"])
def test_empty_breaker_has_its_defaults(line: str) -> None:
    assert read(with_destination(line)).destinations["erp"].breaker == BreakerPolicy()


@pytest.mark.parametrize("line", ["breaker:", "order_by: null", "rate_limit: ~", "hold: []", "on_dead: hold"])
def test_nothing_given_is_the_default(line: str) -> None:
    assert read(with_destination(line)) == read(MINIMAL)


@pytest.mark.parametrize(
    ("lines", "holds"),
    [
        ("order_by: orderId", True),
        ("order_by: orderId\n    on_dead: hold", True),
        ("order_by: orderId\n    on_dead: continue", False),
        ("on_dead: hold", False),
    ],
)
def test_dead_delivery_holds_only_where_there_is_an_order(lines: str, holds: object) -> None:
    policy = read(with_destination(lines)).destinations["erp"].policy
    assert policy.holds_when_dead is holds


A_RATE = (
    "write a rate as a number and s, min or h, such as 5/s, 100/min or 1000/h; with a burst: 100/min burst 10"
)
A_WINDOW = (
    "write a window as days, times and a time zone, such as Sun 02:00-05:00 Europe/Berlin,"
    " Mon-Fri 18:00-06:00 UTC or daily 22:30-23:00 Europe/Berlin"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("breaker: true", ["14: destinations.erp.breaker: must be a mapping"]),
        (
            "breaker: {failures: 0}",
            ["25: destinations.erp.breaker.failures: input should be greater than or equal to 1"],
        ),
        (
            "breaker: {failures: 1001}",
            ["25: destinations.erp.breaker.failures: input should be less than or equal to 1000"],
        ),
        (
            "breaker: {failures: '5'}",
            ["25: destinations.erp.breaker.failures: must be a whole number, without quotes"],
        ),
        ("breaker: {cooldown: 30}", [f"25: destinations.erp.breaker.cooldown: {A_DURATION}"]),
        (
            "breaker: {cool_down: 30s}",
            ["15: destinations.erp.breaker.cool_down: is not a known key; did you mean cooldown?"],
        ),
        (
            "breaker: {cooldown: 20m}",
            ["14: destinations.erp.breaker: max_cooldown (10m) must not be shorter than cooldown (20m)"],
        ),
        (
            "breaker: {max_cooldown: 1500ms}",
            ["14: destinations.erp.breaker: max_cooldown (1.5s) must not be shorter than cooldown (30s)"],
        ),
        ("order_by: ''", ["15: destinations.erp.order_by: must not be empty"]),
        ("order_by: 5", ["15: destinations.erp.order_by: must be a text; put a number in quotes"]),
        (
            f"order_by: {'x' * 256}",
            ["15: destinations.erp.order_by: string should have at most 255 characters"],
        ),
        ("order_by: [a]", ["15: destinations.erp.order_by: must be a text; put a number in quotes"]),
        ("on_dead: skip", ["14: destinations.erp.on_dead: must be hold or continue"]),
        ("method: GET", ["13: destinations.erp.method: must be POST or PUT"]),
        ("rate_limit: 100", [f"17: destinations.erp.rate_limit: {A_RATE}"]),
        ("rate_limit: 100/m", [f"17: destinations.erp.rate_limit: {A_RATE}"]),
        (
            "rate_limit: 5/s burst 6",
            ["17: destinations.erp.rate_limit: the burst of this rate must be from 1 to 5"],
        ),
        ("hold: Sun 02:00-05:00 UTC", ["11: destinations.erp.hold: must be a list"]),
        ("hold: [Sun]", [f"12: destinations.erp.hold[0]: {A_WINDOW}"]),
        (
            "hold: [Sun 02:00-05:00 UTC, Son 02:00-05:00 UTC]",
            [
                (
                    "33: destinations.erp.hold[1]: 'Son' names no days;"
                    " write daily, or days such as Mon-Fri or Sat,Sun"
                )
            ],
        ),
        (
            "hold: [Sun 02:00-05:00 Europe/Berln]",
            ["12: destinations.erp.hold[0]: there is no time zone Europe/Berln; did you mean Europe/Berlin?"],
        ),
        (
            "hold: [Sat,Sun 02:00-05:00 UTC, Sun 24:00-05:00 UTC]",
            [
                f"12: destinations.erp.hold[0]: {A_WINDOW}",
                (
                    "37: destinations.erp.hold[2]: 24:00 is no time of the day;"
                    " write 00:00 to 23:59, or 24:00 as an end"
                ),
            ],
        ),
        (
            f"hold: [{', '.join(['daily 02:00-05:00 UTC'] * 51)}]",
            ["11: destinations.erp.hold: must have at most 50 entries"],
        ),
    ],
)
def test_problem_of_breaker_order_rate_or_hold_is_named_with_its_place(
    line: str, expected: list[str]
) -> None:
    assert problems(with_destination(line)) == [f"9:{problem}" for problem in expected]


# ---- the store


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/relay",
        "postgresql://relay@db.example.internal/relay",
        "postgresql://relay@db:5433/relay",
        "postgresql://relay@[::1]:5433/relay",
        "postgresql://relay@db1:5432,db2,[fd00::1]/relay?target_session_attrs=read-write",
        "postgresql://relay@%2Fvar%2Frun%2Fpostgresql/relay",
        "postgresql://re%40lay@db/relay?sslmode=verify-full&sslrootcert=system&application_name=relay%201",
        "postgresql://relay@db/relay?options=-c%20statement_timeout%3D5s&connect_timeout=3",
    ],
)
def test_postgres_store_is_given_to_libpq_as_it_was_written(url: str) -> None:
    store = read(with_store(url)).store
    assert store.is_postgres
    assert store.url == store.conninfo() == url
    assert conninfo_to_dict(url)["dbname"] == "relay"
    with pytest.raises(ValueError, match="has no file"):
        _ = store.path


def test_both_names_of_the_scheme_are_the_same_store() -> None:
    short, long = (read(with_store(f"{scheme}://relay@db/relay")) for scheme in ("postgres", "postgresql"))
    assert short == long


def test_sqlite_store_is_a_file() -> None:
    store = read(with_store("sqlite:///relay.db")).store
    assert (store.is_postgres, store.path) == (False, Path("relay.db"))


@pytest.mark.parametrize("password", ["s3cret", "a b+c&d=e?f#g/h:i@j%20k'l\\m\"", "pässwört", "%", "12345"])
@pytest.mark.parametrize("query", ["", "?sslmode=require&application_name=relay"])
def test_password_of_the_store_arrives_at_libpq(folder: Path, password: str, query: str) -> None:
    (folder / "secret").write_text(password, encoding="utf-8")
    store = read(with_store(f"postgresql://relay@db:5433/relay{query}", "password_file: secret")).store
    understood = conninfo_to_dict(store.conninfo())
    assert understood["password"] == password
    assert (understood["user"], understood["host"], understood["port"]) == ("relay", "db", "5433")
    assert (understood["dbname"], understood.get("sslmode")) == ("relay", "require" if query else None)


def test_password_of_the_store_may_be_digits_or_a_variable() -> None:
    for written in ("12345", '"${P}"'):
        store = read(with_store("postgresql://relay@db/relay", f"password: {written}"), P="12345").store
        assert store.conninfo() == "postgresql://relay@db/relay?password=12345"


def test_files_named_in_the_url_of_the_store_are_relative_to_the_configuration(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "our ca.pem").write_text("", encoding="utf-8")
    url = "postgresql://relay@db/relay?sslmode=verify-full&sslrootcert=our%20ca.pem"
    (folder / "conf" / "relay.yaml").write_text(with_store(url), encoding="utf-8")
    store = load(Path("conf/relay.yaml"), {}).store
    assert conninfo_to_dict(store.conninfo())["sslrootcert"] == "conf/our ca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "relay.db",
        "sqlite://relay.db",
        "mysql://relay@db/relay",
        "postgresql:relay",
        "postgresql://",
        "postgresql:///relay",
        "postgresql://relay@/relay",
        "postgresql://relay@db",
        "postgresql://relay@db/",
        "postgresql://relay@db?sslmode=require",
        "postgresql://relay@db/relay/more",
        "postgresql://relay@db/relay?",
        "postgresql://relay@db/relay#part",
        "postgresql://relay@db:0/relay",
        "postgresql://relay@db:65536/relay",
        "postgresql://relay@db:port/relay",
        "postgresql://relay@db1,,db2/relay",
        "postgresql://relay@::1/relay",
        "postgresql://relay@db/re lay",
        "postgresql://relay@db/re%lay",
        "postgresql://relay@db/relay%00",
        "postgresql+psycopg://relay@db/relay",
    ],
)
def test_url_of_no_store_is_refused(url: str) -> None:
    assert problems(with_store(url)) == [f"11:14: store.url: {A_STORE}"]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://relay:{SECRET}@db/relay",
        f"postgres://:{SECRET}@db/relay",
        f"postgresql://relay:{SECRET}/?#@db/relay",
        "postgresql://relay:@db/relay",
        f"postgresql://relay@db/relay?sslmode=require&password={SECRET}",
    ],
)
def test_password_in_the_url_of_a_store_is_refused(url: str) -> None:
    assert problems(with_store(url)) == [
        "11:14: store.url: a password doesn't belong into the URL; write it under store.password"
    ]


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("sslmod=require", "sslmod is not a parameter that may stand in the URL; did you mean sslmode?"),
        ("sslmode=require&x=1", "x is not a parameter that may stand in the URL"),
        ("user=relay", "user is not a parameter that may stand in the URL"),
        ("sslmode", "write sslmode=VALUE"),
        ("sslmode=", "write sslmode=VALUE"),
        ("sslrootcert=nowhere.pem", "can't read nowhere.pem"),
        *(
            (
                f"{name}={SECRET}",
                f"{name} is a secret, and can't stand in the URL, which is shown",
            )
            for name in ("sslpassword", "oauth_client_secret")
        ),
    ],
)
def test_parameter_that_may_not_stand_in_the_url_of_a_store_is_named(parameter: str, problem: str) -> None:
    url = f"postgresql://relay@db/relay?{parameter}"
    assert problems(with_store(url)) == [f"11:14: store.url: {problem}"]


@pytest.mark.parametrize(
    ("url", "passwords", "problem"),
    [
        (
            "sqlite:///relay.db",
            f"password: {SECRET}",
            "a password is for postgresql://; a SQLite file has none",
        ),
        (
            "postgresql://relay@db/relay",
            f"password: {SECRET}, password_file: config.yaml",
            "give only one of password, password_file",
        ),
    ],
)
def test_password_that_does_not_fit_the_store_is_refused(url: str, passwords: str, problem: str) -> None:
    assert problems(with_store(url, passwords)) == [f"11:8: store: {problem}"]


# ---- TLS


def tls(cert: str, key: str) -> str:
    return f"{MINIMAL}server: {{tls: {{cert_file: {cert}, key_file: {key}}}}}\n"


def test_certificate_with_its_key_is_taken() -> None:
    certificate = trustme.CA().issue_cert("relay.example")
    certificate.cert_chain_pems[0].write_to_path("cert.pem")
    certificate.private_key_pem.write_to_path("key.pem")
    config = read(tls("cert.pem", "key.pem"))
    assert config.server.tls is not None
    assert config.server.tls.context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_unusable_certificate_is_refused(folder: Path) -> None:
    authority = trustme.CA()
    one, other = authority.issue_cert("relay.example"), authority.issue_cert("relay.example")
    one.cert_chain_pems[0].write_to_path("cert.pem")
    other.private_key_pem.write_to_path("other.pem")
    (folder / "garbage.pem").write_text("garbage", encoding="utf-8")
    key = load_pem_private_key(one.private_key_pem.bytes(), None)
    (folder / "encrypted.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    place = "11:15: server.tls:"
    assert problems(tls("cert.pem", "nowhere.pem")) == [
        f"{place} can't use cert.pem with nowhere.pem: no such file or directory"
    ]
    (mismatch,) = problems(tls("cert.pem", "other.pem"))
    assert mismatch.startswith(f"{place} can't use cert.pem with other.pem: ")
    (garbage,) = problems(tls("garbage.pem", "other.pem"))
    assert garbage.startswith(f"{place} can't use garbage.pem with other.pem: ")
    assert problems(tls("cert.pem", "encrypted.pem")) == [
        f"{place} the key is encrypted with a passphrase, which is not supported"
    ]
    assert problems(f"{MINIMAL}server: {{tls: {{cert_file: cert.pem}}}}\n") == [
        "11:15: server.tls.key_file: is required"
    ]


# ---- a folder of files


def in_folder(**files: str) -> Path:
    folder = Path("conf.d")
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def folder_problems(**files: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(in_folder(**files), {})
    return refused.value.problems


CRM = "destinations:\n  crm: {url: https://crm}\nroutes:\n  - {name: crm, to: [crm]}\n"


def test_files_of_a_folder_are_united_and_routes_follow_the_names_of_the_files() -> None:
    folder = in_folder(b=CRM, a=MINIMAL, c="", d="routes: [{to: [erp, crm]}]\nserver: {max_body: 2MiB}\n")
    (folder / ".hidden.yaml").write_text("nonsense", encoding="utf-8")
    (folder / "readme.txt").write_text("nonsense", encoding="utf-8")
    (folder / "more.yaml.bak").write_text("nonsense", encoding="utf-8")
    config = load(folder, {})
    assert list(config.destinations) == ["erp", "crm"]
    assert [route.name for route in config.routes] == ["routes[0]", "crm", "routes[2]"]
    assert config.server.max_body == 2 << 20
    assert config.store.path == folder / "relay.db"


def test_name_in_two_files_is_refused_with_both_places() -> None:
    assert folder_problems(a=MINIMAL, b="destinations:\n  erp: {url: https://x}\n") == [
        "conf.d/b.yaml:2:3: destinations.erp: defined twice, first at conf.d/a.yaml:7:3"
    ]


def test_key_of_a_section_in_two_files_is_refused_with_both_places() -> None:
    assert folder_problems(a=MINIMAL + "server: {max_body: 1MiB}\n", b="server: {max_body: 2MiB}\n") == [
        "conf.d/b.yaml:1:10: server.max_body: defined twice, first at conf.d/a.yaml:11:10"
    ]


def test_section_of_two_kinds_is_refused_with_both_places() -> None:
    found = folder_problems(a=MINIMAL, b="routes: {to: [erp]}\n")
    assert found == ["conf.d/b.yaml:1:1: routes: defined twice, first at conf.d/a.yaml:9:1"]


def test_problem_in_a_second_file_is_named_with_its_place_there() -> None:
    found = folder_problems(a=MINIMAL, b="routes:\n  - {to: [erp]}\n  - {to: [epr], mach: {}}\n", c="- 1\n")
    assert found == [
        "conf.d/b.yaml:3:11: routes[2].to[0]: there is no destination epr; did you mean erp?",
        "conf.d/b.yaml:3:17: routes[2].mach: is not a known key; did you mean match?",
        "conf.d/c.yaml:1:1: must be a mapping",
    ]


def test_problem_in_one_file_hides_none_in_another() -> None:
    found = folder_problems(a=MINIMAL.replace("[erp]", "[epr]"), b="routes:\n  - {to: [erp], stop: no}\n")
    assert found == [
        "conf.d/a.yaml:10:10: routes[0].to[0]: there is no destination epr; did you mean erp?",
        f"conf.d/b.yaml:2:23: routes[1].stop: YAML versions read no {DIFFERENTLY}",
    ]


def test_file_that_is_not_text_hides_no_problem_of_another() -> None:
    folder = in_folder(a=MINIMAL.replace("to: [erp]", "{to: [erp], stop: no}"))
    (folder / "b.yaml").write_bytes("routes: # Gründe".encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        load(folder, {})
    assert refused.value.problems == [
        f"conf.d/a.yaml:10:23: routes[0].stop: YAML versions read no {DIFFERENTLY}",
        "conf.d/b.yaml:1:13: is not UTF-8 text",
    ]


def test_nothing_is_said_to_be_missing_while_a_file_is_not_readable() -> None:
    assert folder_problems(a=CRM, b="sources: [\n") == [
        "conf.d/b.yaml:2:1: not valid YAML: expected the node content, but found '<stream end>'"
    ]


# ---- suggestions


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("epr", ["crm", "erp"], "; did you mean erp?"),
        ("x", ["crm", "erp"], "; known are crm, erp"),
        ("x", [], ""),
    ],
)
def test_close_word_is_suggested_else_all_are_named(word: str, known: list[str], text: str) -> None:
    assert suggestion(word, known) == text
