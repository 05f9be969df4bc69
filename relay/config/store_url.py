"""The URL of a store: a SQLite file, or a PostgreSQL database in the words of libpq.

Everything that libpq may be told stands in the URL's query; what would be a secret there is refused, since a
URL is shown. Opening a store is left to `store`.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import ValidationInfo

from relay.config.values import resolved

_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://"
_FORMS = (
    "write sqlite:///PATH, such as sqlite:///relay.db or sqlite:////var/lib/relay.db,"
    " or postgresql://USER@HOST/DATABASE, such as postgresql://relay@db.example.internal/relay"
)
_BELONGS_ELSEWHERE = "a password doesn't belong into the URL; write it under store.password"
_SECRET = re.compile(r"postgres(?:ql)?://[^@]*:.*@", re.DOTALL)  # whatever a password consists of
_POSTGRES_URL = re.compile(
    r"postgres(?:ql)?://(?P<server>(?:[^:@/?#]+@)?(?P<hosts>[^@/?#]+))/(?P<database>[^:@/?#]+)"
    r"(?:\?(?P<query>[^@?#]+))?"
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^][:]+)(?::(?P<port>[0-9]{1,5}))?")
_UNUSABLE = re.compile(r"[\s\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})|%00")

# Of libpq 18: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_PARAMETERS = frozenset(
    (
        *("application_name", "hostaddr", "load_balance_hosts", "options", "target_session_attrs"),
        *("connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
        *("tcp_user_timeout", "channel_binding", "passfile", "require_auth", "requirepeer"),
        *("sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode"),
        *("sslnegotiation", "sslrootcert", "sslsni", "ssl_max_protocol_version", "ssl_min_protocol_version"),
        *("max_protocol_version", "min_protocol_version"),
        *("gssdelegation", "gssencmode", "gsslib", "krbsrvname"),
    )
)
_FILES = frozenset({"passfile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslrootcert"})
_SECRETS = frozenset({"sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"})


def store_url(value: str, info: ValidationInfo) -> str:
    """Return the URL of a store in its one form, its paths relative to the file that names them.

    Raises:
        ValueError: it is none, or it has a secret.
    """
    if _SECRET.match(value):
        raise ValueError(_BELONGS_ELSEWHERE)
    if re.fullmatch(f"{_SQLITE}[^?#]+", value):
        return f"{_SQLITE}{resolved(value.removeprefix(_SQLITE), info)}"
    found = _POSTGRES_URL.fullmatch(value)
    if not found or _UNUSABLE.search(value) or not all(map(_is_host, found["hosts"].split(","))):
        raise ValueError(_FORMS)
    url = f"{_POSTGRES}{found['server']}/{found['database']}"
    if not found["query"]:
        return url
    return f"{url}?{'&'.join(_parameter(part, info) for part in found['query'].split('&'))}"


def is_postgres(url: str) -> bool:
    """Tell whether a checked URL is that of a PostgreSQL database."""
    return url.startswith(_POSTGRES)


def sqlite_path(url: str) -> str:
    """Return the path of the file that a checked URL names.

    Raises:
        ValueError: it names none.
    """
    if is_postgres(url):
        raise ValueError("a PostgreSQL store has no file")
    return url.removeprefix(_SQLITE)


def with_password(url: str, password: str) -> str:
    """Return a checked URL of a PostgreSQL database with a password, for libpq alone."""
    return f"{url}{'&' if '?' in url else '?'}password={quote(password, safe='')}"


def _is_host(text: str) -> bool:
    """Tell whether a text is `host` or `host:port`; a host is a name, address or socket's folder."""
    found = _HOST.fullmatch(text)
    return found is not None and 0 < int(found["port"] or 1) <= 65535


def _parameter(text: str, info: ValidationInfo) -> str:
    """Return one `name=value` of a query, if libpq knows it and it is no secret."""
    name, is_given, value = text.partition("=")
    if name == "password":
        raise ValueError(_BELONGS_ELSEWHERE)
    if name in _SECRETS:
        raise ValueError(f"{name} is a secret, and can't stand in the URL, which is shown")
    if name not in _PARAMETERS:
        close = difflib.get_close_matches(name, sorted(_PARAMETERS), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name} is not a parameter that may stand in the URL{hint}")
    if not is_given or not value:
        raise ValueError(f"write {name}=VALUE")
    if name not in _FILES or (name, value) == ("sslrootcert", "system"):
        return text
    return f"{name}={quote(str(_readable(resolved(unquote(value), info))))}"


def _readable(path: Path) -> Path:
    """Return a path that can be read; libpq connects without the check that a missing file was meant for."""
    if not os.access(path, os.R_OK):
        raise ValueError(f"can't read {path}")
    return path
