"""Answers as Toxiproxy gives them: their headers, and how numbers stand in them.

Source: the answers of a Toxiproxy 2.12 server, `tests/control/toxiproxy_2_12.yaml`.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

from .errors import ApiError


def said(value: Any, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """JSON, for what could be done."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def refused(error: ApiError) -> web.Response:
    """An error: JSON as well, and called plain text."""
    body = json.dumps(error.body(), ensure_ascii=False, separators=(",", ":"))
    return plain(f"{body}\n", error.status)


def plain(text: str, status: HTTPStatus) -> web.Response:
    """Words, which nobody shall take for a page."""
    response = web.Response(text=text, status=status)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
