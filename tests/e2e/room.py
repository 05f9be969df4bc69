"""A relay whose pages a browser looks at, with an ERP that takes everything and a CRM that needn't."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from tests.e2e.receiver import Received
from tests.e2e.relay_process import RelayProcess

NASTY = "<script>document.title='taken'</script>javascript:alert(1)\u202eevil<img src=x onerror=alert(2)>"


class Room:
    """A relay with an ERP that takes everything, and a CRM that answers as a test says."""

    def __init__(self, relay: RelayProcess, client: aiohttp.ClientSession) -> None:
        self.relay = relay
        self.client = client
        self.crm_status = 422

    async def answer_for_crm(self, _received: Received) -> int:
        return self.crm_status

    def address(self, path: str) -> str:
        return f"{self.relay.admin}{path}"

    @property
    def host(self) -> str:
        return urlsplit(self.relay.admin).netloc

    async def states(self, destination: str) -> list[str]:
        """Return the states of a destination's deliveries, the newest first."""
        query = {"destination": destination}
        async with self.client.get(self.address("/api/v1/deliveries"), params=query) as answer:
            return [delivery["state"] for delivery in (await answer.json())["deliveries"]]

    async def changes(self) -> list[str]:
        """Return what was changed by hand, the first first."""
        async with self.client.get(self.address("/api/v1/changes")) as answer:
            return [change["action"] for change in (await answer.json())["changes"]][::-1]
