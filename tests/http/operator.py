"""A client of the API that holds every answer against the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlencode

from aiohttp import encode_basic_auth
from jsonschema_rs import Draft202012Validator

from relay.admin.openapi import DOCUMENT
from tests.http.world import Answer, Running

API = "/api/v1"
JSON = "application/json"
document: dict[str, Any] = json.loads(DOCUMENT)


@cache
def validator(schema: str) -> Draft202012Validator:
    """Return what checks a schema, given as JSON text, with the document's own schemas."""
    return Draft202012Validator(
        {**json.loads(schema), "components": document["components"]}, validate_formats=True
    )


def operation_of(method: str, path: str) -> dict[str, Any]:
    """Return what the document says of a method at a path."""
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            found: dict[str, Any] = operations[method.lower()]
            return found
    raise AssertionError(f"{method} {path} is not documented")


def assert_documented(method: str, path: str, answer: Answer) -> None:
    """Check that the document promises an answer: its status, type, headers and content."""
    responses = operation_of(method, path)["responses"]
    assert str(answer.status) in responses, (method, path, answer)
    promised = responses[str(answer.status)]
    content_type = answer.headers["Content-Type"].partition(";")[0]
    assert content_type in promised["content"], (method, path, answer)
    for name in promised.get("headers", {}):
        assert name in answer.headers, (method, path, answer)
    if content_type == JSON:
        schema = json.dumps(promised["content"][JSON]["schema"], sort_keys=True)
        validator(schema).validate(answer.json)


class Operator:
    """Somebody who uses the API of a running relay."""

    def __init__(self, running: Running, login: tuple[str, str] | None = None) -> None:
        self.running = running
        self._headers = {"Authorization": encode_basic_auth(*login)} if login else {}

    async def ask(
        self, method: str, path: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request as it is, below the API's path, and check its answer."""
        every = {**self._headers, **(headers or {})}
        answer = await self.running.ask(f"{API}{path}", method=method, headers=every, data=data)
        assert_documented(method, f"{API}{path.partition('?')[0]}", answer)
        return answer

    async def get(self, path: str, answered: int = 200, /, **query: Any) -> Any:
        """Look, and return the JSON."""
        answer = await self.ask("GET", f"{path}?{urlencode(query)}" if query else path)
        assert answer.status == answered, answer
        return answer.json

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Have something done, and return the JSON."""
        data = b"" if body is None else json.dumps(body).encode()
        answer = await self.ask("POST", path, data=data, headers={"Content-Type": JSON})
        assert answer.status == status, answer
        return answer.json

    async def pages(self, path: str, key: str, **query: Any) -> list[Any]:
        """Return the items of all pages."""
        items, cursor = [], None
        while True:
            page = await self.get(path, **query, **({} if cursor is None else {"cursor": cursor}))
            items += page[key]
            if (cursor := page["next"]) is None:
                return items

    async def steps(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """Have a repair done step by step, and return what each step said."""
        done = [await self.post(path, body)]
        while (cursor := done[-1]["next"]) is not None:
            done.append(await self.post(path, {**body, "cursor": cursor}))
        return done

    async def delivery(self, destination: str = "erp", **query: Any) -> Any:
        """Return the newest delivery to a destination."""
        (found, *_) = (await self.get("/deliveries", destination=destination, **query))["deliveries"]
        return await self.get(f"/deliveries/{found['id']}")

    async def changes(self) -> list[tuple[str, str, int]]:
        """Return who did what how often, the first first."""
        found = (await self.get("/changes"))["changes"]
        return [(change["who"], change["action"], change["number"]) for change in reversed(found)]
