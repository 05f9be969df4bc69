"""The operator's pages: is everything flowing, where is our delivery note, and how do I fix this.

`site` has their frame and `words` their language; each family of pages has a module of its own. What the
buttons do is `repair`'s, as for the API, and who may press them the listener's.
"""

from __future__ import annotations

from aiohttp import web

from relay.admin.pages.audit import AuditPage
from relay.admin.pages.dead import DeadPage
from relay.admin.pages.event import EventPage
from relay.admin.pages.find import FindPage
from relay.admin.pages.order import OrderPage
from relay.admin.pages.overview import OverviewPage
from relay.admin.pages.quarantine import QuarantinePage
from relay.admin.pages.routes import RoutesPage
from relay.admin.pages.site import Site
from relay.admin.pages.unrouted import UnroutedPage

__all__ = ["Pages", "Site"]


class Pages:
    """All pages."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pages = (
            *(OverviewPage(site), FindPage(site), OrderPage(site), EventPage(site)),
            *(DeadPage(site), UnroutedPage(site), QuarantinePage(site), RoutesPage(site), AuditPage(site)),
        )

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [*self._site.routes(), *(route for page in self._pages for route in page.routes())]
