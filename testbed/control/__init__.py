"""The control server: Toxiproxy's HTTP API for proxies of ours, and metrics."""

from .server import Control, ControlError, serve

__all__ = ["Control", "ControlError", "serve"]
