"""Toxiproxy's routes. What each does is in `collection.py` and `proxied.py`.

Source: Shopify/toxiproxy 2.12.0, `api.go`: paths, methods, status codes, words of errors. Beyond
it: `toxics` in the body of a new proxy are made with it, and `/populate` is whole or nothing.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from . import errors
from .answers import said
from .body import read
from .collection import Collection, Wanted
from .metrics import CONTENT_TYPE, exposition
from .proxied import Proxied
from .toxics import Toxic

VERSION = "2.12.0"
"""The Toxiproxy whose API this is: clients ask for it to know what they may use."""


class Api:
    """The handlers, on a collection of proxies."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def routes(self) -> list[web.RouteDef]:
        """All routes."""
        proxy, toxics = "/proxies/{proxy}", "/proxies/{proxy}/toxics"
        toxic = f"{toxics}/{{toxic}}"
        return [
            web.get("/version", self.version, allow_head=False),
            web.route("*", "/metrics", self.metrics),
            web.post("/reset", self.reset),
            web.post("/populate", self.populate),
            web.get("/proxies", self.proxies, allow_head=False),
            web.post("/proxies", self.create_proxy),
            web.get(proxy, self.proxy, allow_head=False),
            web.post(proxy, self.update_proxy),
            web.patch(proxy, self.update_proxy),
            web.delete(proxy, self.delete_proxy),
            web.get(toxics, self.toxics, allow_head=False),
            web.post(toxics, self.create_toxic),
            web.get(toxic, self.toxic, allow_head=False),
            web.post(toxic, self.update_toxic),
            web.patch(toxic, self.update_toxic),
            web.delete(toxic, self.delete_toxic),
        ]

    async def version(self, _request: web.Request) -> web.Response:
        """Which Toxiproxy this speaks like."""
        text = f'{{"version": "{VERSION}"}}\n'
        return web.Response(
            body=text.encode(), headers={"Content-Type": "application/json;charset=utf-8"}
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        """Counters for Prometheus."""
        text = exposition(self._collection.proxies.values())
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def reset(self, _request: web.Request) -> web.Response:
        """No toxics, and all proxies enabled."""
        async with self._collection.changing:
            await self._collection.reset()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def populate(self, request: web.Request) -> web.Response:
        """Have these proxies; the answer has the proxies beside an error, too."""
        try:
            items = read(await request.read())
            items = [] if items is None else items
            if not isinstance(items, list):
                raise errors.bad_body("expected a list of proxies")
            wanted = [
                Wanted.parse(item, f"[{number}]", f" at proxy {number + 1}")
                for number, item in enumerate(items)
            ]
            async with self._collection.changing:
                made = await self._collection.populate(wanted)
        except errors.ApiError as error:
            return said({**error.body(), "proxies": None}, error.status)
        body = {"proxies": [proxied.to_json() for proxied in made] or None}
        return said(body, HTTPStatus.CREATED)

    async def proxies(self, _request: web.Request) -> web.Response:
        """All proxies, by name."""
        shown = {name: each.to_json() for name, each in sorted(self._collection.proxies.items())}
        return said(shown)

    async def create_proxy(self, request: web.Request) -> web.Response:
        """One more proxy."""
        wanted = Wanted.parse(read(await request.read()))
        async with self._collection.changing:
            proxied = await self._collection.create(wanted)
        return said(proxied.to_json(), HTTPStatus.CREATED)

    async def proxy(self, request: web.Request) -> web.Response:
        """One proxy."""
        return said(self._proxied(request).to_json())

    async def update_proxy(self, request: web.Request) -> web.Response:
        """Other addresses, or enabled or not."""
        self._proxied(request)
        value = read(await request.read())
        async with self._collection.changing:
            proxied = await self._collection.update(self._proxied(request), value)
        return said(proxied.to_json())

    async def delete_proxy(self, request: web.Request) -> web.Response:
        """One proxy less."""
        async with self._collection.changing:
            await self._collection.delete(request.match_info["proxy"])
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def toxics(self, request: web.Request) -> web.Response:
        """The toxics of a proxy."""
        return said([toxic.to_json() for toxic in self._proxied(request).shown_toxics()])

    async def create_toxic(self, request: web.Request) -> web.Response:
        """One more toxic, on the connections that are there, too."""
        self._proxied(request)
        value = read(await request.read())
        async with self._collection.changing:
            proxied = self._proxied(request)
            return said(proxied.add(Toxic.parse(value, taken=proxied.taken)).to_json())

    async def toxic(self, request: web.Request) -> web.Response:
        """One toxic."""
        return said(self._proxied(request).toxic(request.match_info["toxic"]).to_json())

    async def update_toxic(self, request: web.Request) -> web.Response:
        """Other attributes or toxicity; what is not said stays."""
        name = request.match_info["toxic"]
        self._proxied(request).toxic(name)
        value = read(await request.read())
        async with self._collection.changing:
            proxied = self._proxied(request)
            return said(proxied.replace(proxied.toxic(name).updated(value)).to_json())

    async def delete_toxic(self, request: web.Request) -> web.Response:
        """One toxic less."""
        async with self._collection.changing:
            self._proxied(request).remove(request.match_info["toxic"])
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _proxied(self, request: web.Request) -> Proxied:
        return self._collection.get(request.match_info["proxy"])
