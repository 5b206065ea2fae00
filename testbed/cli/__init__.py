"""The command line: arguments in, exit code out. No logic lives here.

Each module has the commands of its name; what they call is imported when they run.
"""

from __future__ import annotations

import signal

from .standard_streams import prepare


def main() -> None:
    """The command `testbed`."""
    prepare()
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:
        # Ctrl-C while modules are loaded ends the process as any, without a traceback of imports.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .commands import main as run

    signal.signal(signal.SIGINT, on_interrupt)
    run()
