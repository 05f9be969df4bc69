"""Who may talk to a listener: Basic authentication by aiohttp-basicauth, made safe.

Owns the credentials check, the memory of verified logins, and the throttle for failed ones. Which answer a
refusal gets is the listener's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple
from weakref import WeakValueDictionary

from aiohttp import hdrs, web
from aiohttp_basicauth import BasicAuthMiddleware

from relay.config import Account
from relay.errors import TooManyLoginsError
from relay.passwords import PasswordHash

_log = logging.getLogger(__name__)

MAX_HEADER_LENGTH = 2048
CHALLENGE = 'Basic realm="itscope-relay", charset="UTF-8"'
_MAX_REMEMBERED = 256

# A client address may fail this often at full speed; then the answer to each further failure is delayed, up
# to the longest pause, and a pause without failures forgives. Right logins wait for none of these pauses; but
# where a hash must be computed to tell which is right, those from one address take turns.
FREE_FAILURES = 5
LONGEST_PENALTY_SECONDS = 2.0
FORGIVEN_AFTER_SECONDS = 300.0
REST_SECONDS = 0.1  # after the hash of a guess from an address that has to wait
MAX_CHECKS = 32  # logins from one address whose hashes are still to be computed
MAX_CHECKS_IN_ALL = 4096
MAX_DELAYED = 1024  # answers
_MAX_ADDRESSES = 10_000


class Credentials(NamedTuple):
    """A user name and password as a client sent them; stands in for aiohttp's deprecated BasicAuth."""

    login: str
    password: str


class _Turns:
    """The logins from one address: one is being checked, and the others wait."""

    def __init__(self) -> None:
        self.taken = False
        self.waiting: list[asyncio.Future[None]] = []

    def pass_on(self) -> None:
        """Give the turn to the last to come, if there is one."""
        while self.waiting:
            turn = self.waiting.pop()
            if not turn.done():  # as one is that was cancelled just now
                turn.set_result(None)
                return
        self.taken = False


class Throttle:
    """What failed logins cost their address: in time, and the relay in memory. Bounded."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._turns: WeakValueDictionary[str, _Turns] = WeakValueDictionary()  # kept while somebody waits
        self._waiting = 0
        self._delayed = 0

    @contextlib.asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Have a login from an address checked while no other from there is.

        The last to come is the next: whatever many guesses wait, a right login is among the first. Where too
        many wait, the one that has waited longest gives up.

        Raises:
            TooManyLoginsError: too many wait.
        """
        turns = self._turns.setdefault(address, _Turns())
        if turns.taken:
            await self._wait(turns)
        turns.taken = True
        try:
            yield
        finally:
            turns.pass_on()

    async def _wait(self, turns: _Turns) -> None:
        if self._waiting >= MAX_CHECKS_IN_ALL:
            raise _too_many()
        if len(turns.waiting) >= MAX_CHECKS:
            longest = turns.waiting.pop(0)
            if not longest.done():  # as one is that was cancelled just now
                longest.set_exception(_too_many())
        turn = asyncio.get_running_loop().create_future()
        turns.waiting.append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn in turns.waiting:
                turns.waiting.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:  # it has been given the turn just now
                turns.pass_on()
            raise
        finally:
            self._waiting -= 1

    async def delay(self, penalty_seconds: float) -> None:
        """Wait before a failure is answered, unless too many do already: the answer is known."""
        if penalty_seconds and self._delayed < MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(penalty_seconds)
            finally:
                self._delayed -= 1

    def penalty_seconds(self, address: str, now: float) -> float:
        """Return the pause that a failure now costs an address; 0 for most."""
        failures, last_at = self._failures.get(address, (0, now))
        if failures < FREE_FAILURES or now - last_at > FORGIVEN_AFTER_SECONDS:
            return 0.0
        return min(LONGEST_PENALTY_SECONDS, 0.1 * 2.0 ** min(failures - FREE_FAILURES, 10))

    def failed(self, address: str, now: float) -> int:
        """Note a failed login; return how many there were in a row."""
        failures, last_at = self._failures.pop(address, (0, now))
        if now - last_at > FORGIVEN_AFTER_SECONDS:
            failures = 0
        self._failures[address] = (failures + 1, now)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return failures + 1


def _too_many() -> TooManyLoginsError:
    return TooManyLoginsError("too many logins wait to be checked; try again")


class _Login:
    """One account, ready to be compared; its `repr` shows nothing."""

    def __init__(self, account: Account) -> None:
        self._username = account.username.encode()
        secret = account.secret
        self._password = secret.encode() if isinstance(secret, str) else secret

    @property
    def is_hashed(self) -> bool:
        return isinstance(self._password, PasswordHash)

    def matches(self, username: bytes, password: bytes) -> bool:
        """Compare in a time that does not depend on what is wrong."""
        if isinstance(self._password, PasswordHash):
            right_password = self._password.matches(password)
        else:
            right_password = hmac.compare_digest(self._password, password)
        return hmac.compare_digest(self._username, username) & right_password


_Key = tuple[str, bytes, bytes]  # address, user name, password


class _Check(NamedTuple):
    """One computation of hashes, and the requests that wait for it."""

    requests: list[web.BaseRequest]
    right: asyncio.Task[bool]


class Authenticator(BasicAuthMiddleware):
    """Checks a request against several accounts at once.

    A login that was verified is remembered under a key of this object, so that a password hash costs time
    once and not once a webhook; a new object, made on reload, has forgotten it. All accounts are always
    compared, so that the time tells nothing about user names.
    """

    def __init__(
        self,
        accounts: Sequence[Account],
        throttle: Throttle,
        hashing: Executor,
        client_address: Callable[[web.BaseRequest], str],
        now: Callable[[], float],
    ) -> None:
        """Make an authenticator.

        Args:
            accounts: any of which will do.
            throttle: the memory of failed logins; outlives this object.
            hashing: where password hashes are computed. One thread, so that guesses cost one core at most.
            client_address: tells whom to throttle.
            now: the clock.
        """
        super().__init__(realm="itscope-relay")
        self._logins = [_Login(account) for account in accounts]
        self._hashed = any(login.is_hashed for login in self._logins)
        self._hashing = hashing
        self._throttle = throttle
        self._client_address = client_address
        self._now = now
        self._key = secrets.token_bytes(32)
        self._remembered: set[bytes] = set()
        self._checks: dict[_Key, _Check] = {}

    def parse_auth_header(self, request: web.BaseRequest) -> Credentials | None:
        """Return the credentials of the one Authorization header; None for any other number or form."""
        headers = request.headers.getall(hdrs.AUTHORIZATION, [])
        if len(headers) != 1 or len(headers[0]) > MAX_HEADER_LENGTH:
            return None
        scheme, _, encoded = headers[0].partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            decoded = base64.b64decode(encoded.strip(" "), validate=True)
        except (binascii.Error, ValueError):
            return None
        try:
            text = decoded.decode()
        except UnicodeDecodeError:
            text = decoded.decode("latin-1")  # RFC 7617 leaves the charset open; ITscope's isn't documented
        username, colon, password = text.partition(":")
        return Credentials(username, password) if colon else None

    def remembers(self, request: web.BaseRequest) -> bool:
        """Tell whether a request carries a login that was verified before."""
        return self._digest(request) in self._remembered

    async def authenticate(self, request: web.BaseRequest) -> bool:
        """Tell whether a request carries right credentials."""
        digest = self._digest(request)
        if digest in self._remembered:
            return True
        if digest is None or not await super().authenticate(request):
            return False
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered.add(digest)
        return True

    def _digest(self, request: web.BaseRequest) -> bytes | None:
        """Return what the one Authorization header is remembered by; None for any other number or length."""
        headers = request.headers.getall(hdrs.AUTHORIZATION, ())
        if len(headers) != 1 or len(headers[0]) > MAX_HEADER_LENGTH:
            return None
        return hashlib.blake2b(headers[0].encode("utf-8", "surrogateescape"), key=self._key).digest()

    async def check_credentials(
        self, username: str | None, password: str | None, request: web.BaseRequest
    ) -> bool:
        """Compare credentials with all accounts; that they are wrong takes the longer, the more were.

        Raises:
            TooManyLoginsError: too many wait for their hashes to be computed.
        """
        address = network(self._client_address(request))
        given = (username or "").encode(), (password or "").encode()
        if self._hashed:
            right = await self._check_hashes((address, *given), request)
        else:
            right = self._matches_any(*given)
        if not right:
            penalty_seconds = self._throttle.penalty_seconds(address, self._now())
            failures = self._throttle.failed(address, self._now())
            if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: a line a guess would fill the disk
                _log.warning("login.refused", extra={"fields": {"client": address, "failures": failures}})
            await self._throttle.delay(penalty_seconds)
        return right

    def close(self) -> None:
        """Check no more logins that wait."""
        for check in self._checks.values():
            check.right.cancel()

    async def _check_hashes(self, key: _Key, request: web.BaseRequest) -> bool:
        """Compare with hashes in turn; many requests with the same login at the same time take one."""
        if (check := self._checks.get(key)) is None:
            requests: list[web.BaseRequest] = []
            check = self._checks[key] = _Check(requests, asyncio.create_task(self._check(key, requests)))
        check.requests.append(request)
        return await asyncio.shield(check.right)

    async def _check(self, key: _Key, requests: Sequence[web.BaseRequest]) -> bool:
        address, username, password = key
        try:
            async with self._throttle.turn(address):
                if all(request.transport is None for request in requests):
                    raise TooManyLoginsError("nobody waits for this login any more")
                right = await asyncio.get_running_loop().run_in_executor(
                    self._hashing, self._matches_any, username, password
                )
                if not right and self._throttle.penalty_seconds(address, self._now()):
                    await asyncio.sleep(REST_SECONDS)
                return right
        finally:
            del self._checks[key]  # at once, so that nobody joins it who came after it was decided

    def _matches_any(self, username: bytes, password: bytes) -> bool:
        right = False
        for login in self._logins:
            right |= login.matches(username, password)
        return right


def client_address(request: web.BaseRequest, trusted_proxies: Sequence[str]) -> str:
    """Return the address a request came from; of X-Forwarded-For only what trusted proxies wrote.

    Args:
        request: as received.
        trusted_proxies: addresses or networks, as configured.
    """
    address = request.remote or ""
    if not trusted_proxies:
        return address
    networks = [ipaddress.ip_network(network) for network in trusted_proxies]
    hops = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, []))[-2048:].split(",")
    while hops and _is_within(address, networks):
        hop = hops.pop().strip()
        if not _is_address(hop):
            break
        address = hop
    return address


def network(address: str) -> str:
    """Return what is throttled as one: an IPv4 address, or the /64 that an IPv6 host has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def _is_within(address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
