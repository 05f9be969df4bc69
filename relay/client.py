"""A client of the admin listener of a running relay, for the commands.

Owns requests, pages, steps, and the sentences for what can go wrong. One connection, one request at a time:
so it is the standard library's, which starts faster than any other.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from relay import __version__
from relay.errors import RelayError
from relay.payload import integer

Json = dict[str, Any]

_API = "/api/v1"
_TIMEOUT_SECONDS = 120.0  # a step of a large repair
_DECODER = json.JSONDecoder(parse_int=integer)  # an event may hold any number
PAGE = 500  # the most that the API gives


class RefusedError(RelayError):
    """The relay refused a request, and said why.

    Attributes:
        status: of the HTTP answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """The admin API of one running relay. Use `with`."""

    def __init__(self, url: str, login: tuple[str, str] | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: of the admin listener, http or https.
            login: name and password, None for none.
        """
        if "@" in url:  # anywhere, and never printed: what looks like a path may be a password's end
            raise RelayError("the address of the admin listener holds a login; give that with --user")
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            host.encode("idna")  # as the connection does, later and less kindly
            make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection = make(host, parts.port, timeout=_TIMEOUT_SECONDS)
        except (ValueError, http.client.InvalidURL) as error:
            raise RelayError(f"{url} is no address of an admin listener: {error}") from error
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._prefix = quote(parts.path.rstrip("/"), safe="/%") + _API
        self._headers = {"User-Agent": f"itscope-relay-cli/{__version__}", "Accept": "application/json"}
        if login is not None:
            self._headers["Authorization"] = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.close()

    def get(self, *path: str | int, **parameters: str | int | None) -> Json:
        """Return an answer of the API; parameters that are None are left out.

        Raises:
            RefusedError: the relay said no.
            RelayError: it can't be reached, or isn't one.
        """
        return self._decoded(self.read(*path, **parameters))

    def read(self, *path: str | int, **parameters: str | int | None) -> bytes:
        """Return an answer's bytes; raises as `get` does."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._ask("GET", path, f"?{urlencode(given)}" if given else "")

    def post(self, *path: str | int, **body: Any) -> Json:
        """Have something changed and return what was done; raises as `get` does."""
        return self._decoded(self._ask("POST", path, "", json.dumps(body).encode()))

    def items(self, name: str, page_size: int = PAGE, **parameters: str | int | None) -> Iterator[Json]:
        """Yield the items of a list, page after page, each asked for when it is needed."""
        cursor: str | None = None
        while True:
            page = self.get(name, limit=min(page_size, PAGE), cursor=cursor, **parameters)
            yield from page[name]
            cursor = page["next"]
            if cursor is None:
                return

    def steps(self, name: str, body: Mapping[str, Any]) -> Iterator[Json]:
        """Take all steps of a repair, one after the other, and yield what each did."""
        cursor: str | None = None
        while True:
            done = self.post(name, **body, cursor=cursor)
            yield done
            cursor = done["next"]
            if cursor is None:
                return

    def _ask(self, method: str, path: tuple[str | int, ...], query: str, body: bytes | None = None) -> bytes:
        target = "/".join([self._prefix, *(quote(str(part), safe="") for part in path)]) + query
        headers = self._headers if body is None else self._headers | {"Content-Type": "application/json"}
        try:
            self._connection.request(method, target, body, headers)
            with self._connection.getresponse() as response:
                status, answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from error
        if status != 200:
            raise self._refused(status, answer)
        return answer

    def _unreachable(self, error: Exception) -> RelayError:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        if isinstance(error, http.client.HTTPException | ConnectionResetError):
            why = "it closed the connection or doesn't speak http"
        return RelayError(
            f"can't reach the admin listener at {self._url}: {why}; is the relay running, and is that its"
            " admin.listen? (--url)"
        )

    def _refused(self, status: int, answer: bytes) -> RelayError:
        if status == 401:
            return RefusedError(
                status, f"the admin listener at {self._url} wants a login of admin.auth: --user NAME"
            )
        try:
            return RefusedError(status, str(json.loads(answer)["error"]))
        except (ValueError, KeyError, TypeError):
            return RelayError(f"{self._url} answered {status}, and not as a relay does; is it one? (--url)")

    def _decoded(self, answer: bytes) -> Json:
        try:
            decoded = _DECODER.decode(answer.decode())
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise RelayError(f"{self._url} answers, but not as a relay does; is it one? (--url)")
        return decoded
