"""What a request is answered with when it cannot be done: Toxiproxy's words and status codes.

Source: Shopify/toxiproxy 2.12.0, `api.go`.
"""

from __future__ import annotations

from http import HTTPStatus


class ApiError(Exception):
    """A request that cannot be done: status and words for whoever asked."""

    def __init__(self, message: str, status: HTTPStatus) -> None:
        super().__init__(message)
        self.message, self.status = message, status

    def body(self) -> dict[str, object]:
        """As JSON."""
        return {"error": self.message, "status": self.status.value}


def bad_body(why: str) -> ApiError:
    """The body is not what it has to be."""
    return ApiError(f"bad request body: {why}", HTTPStatus.BAD_REQUEST)


def missing(field: str) -> ApiError:
    """The body lacks a field."""
    return ApiError(f"missing required field: {field}", HTTPStatus.BAD_REQUEST)


def invalid_stream() -> ApiError:
    """A toxic is in one of two directions."""
    words = "stream was invalid, can be either upstream or downstream"
    return ApiError(words, HTTPStatus.BAD_REQUEST)


def invalid_type() -> ApiError:
    """No toxic is of that type."""
    return ApiError("invalid toxic type", HTTPStatus.BAD_REQUEST)


def proxy_exists() -> ApiError:
    """Names of proxies differ."""
    return ApiError("proxy already exists", HTTPStatus.CONFLICT)


def toxic_exists() -> ApiError:
    """Names of a proxy's toxics differ, in both directions together."""
    return ApiError("toxic already exists", HTTPStatus.CONFLICT)


def no_proxy() -> ApiError:
    """No proxy has that name."""
    return ApiError("proxy not found", HTTPStatus.NOT_FOUND)


def no_toxic() -> ApiError:
    """No toxic of the proxy has that name."""
    return ApiError("toxic not found", HTTPStatus.NOT_FOUND)


def too_many(what: str, most: int) -> ApiError:
    """Everything that grows has a bound."""
    return ApiError(f"too many {what}: at most {most}", HTTPStatus.CONFLICT)


def failed(why: object) -> ApiError:
    """The operating system said no."""
    return ApiError(str(why), HTTPStatus.INTERNAL_SERVER_ERROR)


def not_ours(name: str, why: str) -> ApiError:
    """A command runs the proxy, which is not for others to take away."""
    return ApiError(f"the proxy {name} of the command {why}", HTTPStatus.CONFLICT)
