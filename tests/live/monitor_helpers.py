"""A QMP monitor as a test without an endpoint uses it: blocking, one command at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

QMP_S = 60


class Qmp:
    """A QMP monitor at a unix socket."""

    def __init__(self, path: Path, process: subprocess.Popen[str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(QMP_S)
        deadline = time.monotonic() + QMP_S
        while True:  # until it is there
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                os.sched_yield()
        self._lines = self._socket.makefile("rw")
        assert "QMP" in self.read()
        self.command("qmp_capabilities")

    def read(self) -> dict[str, Any]:
        return json.loads(self._lines.readline())

    def command(self, name: str, **arguments: Any) -> Any:
        self._lines.write(json.dumps({"execute": name, "arguments": arguments}))
        self._lines.flush()
        while "event" in (answer := self.read()):
            pass
        return answer["return"]

    def until(self, event: str) -> dict[str, Any]:
        while (told := self.read()).get("event") != event:
            pass
        return told

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
