"""The interposing proxy: sockets on both sides, the fault engine between them.

Accepts, tells channels apart, pumps bytes, carries out what the engine says. Decides nothing.
"""

from .proxy import Proxy

__all__ = ["Proxy"]
