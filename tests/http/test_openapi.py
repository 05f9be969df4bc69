"""The OpenAPI document: it says all that is served, and clients that follow it get what it promises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from aiohttp import hdrs
from hypothesis import HealthCheck, settings
from jsonschema_rs import meta
from schemathesis.specs.openapi.checks import positive_data_acceptance

from relay import __version__
from relay.admin.openapi import DOCUMENT, PATHS
from relay.admin.schemas import SCHEMAS
from tests.http.operator import Operator, document
from tests.http.world import Clock, Receiver, Running, until

EXAMPLES = 4  # of each operation and phase
SEEDED = 8  # of each kind of thing


# ---- what it says


async def test_all_that_is_served_is_documented_and_the_other_way_round(running: Running) -> None:
    served = {
        (resource.canonical, route.method.lower())
        for resource in running.relay._admin.application().router.resources()
        for route in resource
        if route.method != hdrs.METH_HEAD and resource.canonical.startswith(("/api/", "/-/", "/metrics"))
    }
    assert served == {(path, method) for path, operations in PATHS.items() for method in operations}


async def test_document_is_served(running: Running) -> None:
    answer = await Operator(running).ask("GET", "/openapi.json")
    assert answer.body == DOCUMENT.encode()
    assert __version__ not in DOCUMENT


def test_every_operation_is_described() -> None:
    ids = [operation["operationId"] for operations in PATHS.values() for operation in operations.values()]
    assert len({*ids}) == len(ids)
    for path, operations in PATHS.items():
        for operation in operations.values():
            assert operation["summary"]
            assert all(parameter["description"] for parameter in operation.get("parameters", ()))
            assert all(answer["description"] for answer in operation["responses"].values())
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_every_schema_is_sound_and_used() -> None:
    for schema in SCHEMAS.values():
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    unused = {name for name in SCHEMAS if f'"#/components/schemas/{name}"' not in DOCUMENT}
    assert unused == set()


def test_every_error_has_the_one_shape() -> None:
    for operations in PATHS.values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status != "200":
                    (content,) = answer["content"].values()
                    assert content["schema"]["$ref"].rpartition("/")[2] in {"Error", "Problems"}


def test_what_any_request_may_be_answered_is_promised() -> None:
    for path, operations in PATHS.items():
        for operation in operations.values():
            promised = {"400", "417", "500", *(("403",) if path.startswith("/api/") else ())}
            assert promised <= operation["responses"].keys()


# ---- clients that follow it


class Elsewhere:
    """A relay on an event loop of its own thread, for clients that block."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self._folder = folder
        self._thread = threading.Thread(target=self._run, name="relay")
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(30)
        return self.url

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        erp = Receiver()
        await erp.start()
        running = Running(self._folder, Clock())
        running.config = {
            "server": {"listen": "127.0.0.1:0", "drain_timeout": "100ms"},
            "admin": {"listen": "127.0.0.1:0"},
            "sources": {"itscope": {"auth": [{"username": "itscope", "password": "wonderful-secret-1"}]}},
            "destinations": {"erp": {"url": erp.url}, "crm": {"url": erp.url, "order_by": "orderId"}},
            "routes": [{"match": {"eventType": "ORDER"}, "to": ["erp", "crm"]}],
        }
        await running.start()
        try:
            await self._seed(running, erp)
            self.url = "http://{}:{}".format(*running.admin)
            self._ready.set()
            await self._stopping.wait()
        finally:
            self._ready.set()
            await running.stop()
            await erp.stop()

    @staticmethod
    async def _seed(running: Running, erp: Receiver) -> None:
        """Store events that were delivered, that are dead and hold others up, unrouted ones, and nonsense."""
        for count in range(SEEDED):
            await running.post({"eventId": f"a-{count}", "eventType": "ORDER"})
        await running.settled("delivered", "crm", SEEDED)
        erp.otherwise = 422
        for count in range(SEEDED):
            await running.post({"eventId": f"b-{count}", "eventType": "ORDER", "orderId": f"{count % 3}"})
            await running.post({"eventId": f"c-{count}", "eventType": "INVOICE"})
            await running.post(b"nonsense %d" % count)
        await until(lambda: [state for state, _ in running.deliveries()].count("dead") == SEEDED)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Elsewhere(tmp_path_factory.mktemp("relay")) as served:
        yield served


# Without logins: who needs one is tested elsewhere, and a client that guesses them is slowed down.
promised = schemathesis.openapi.from_dict({**document, "security": []})


# The relay's own chances, taken in its thread meanwhile, aren't the strategies'.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@promised.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_client_that_follows_the_document_gets_what_it_promises(case: Any, url: str) -> None:
    aim(case)
    response = case.call(base_url=url)
    # What a schema can't say: which cursors were given, and what is configured.
    unsaid = holds_cursor(case) or response.status_code == 422
    case.validate_response(response, excluded_checks=[positive_data_acceptance] if unsaid else [])


def aim(case: Any) -> None:
    """Have most numbers and names in paths be of things that are there."""
    parameters = case.path_parameters or {}
    if isinstance(number := parameters.get("id"), int) and number > SEEDED:
        parameters["id"] = number % (SEEDED * 3) + 1
    if "name" in parameters and len(str(parameters["name"])) % 2:
        parameters["name"] = "erp"


def holds_cursor(case: Any) -> bool:
    return any(isinstance(part, dict) and part.get("cursor") is not None for part in (case.query, case.body))
