"""Every figure that the README states, by one command: `python -m benchmarks [NAME...]`, as root.

Each benchmark is a file beside this one with a usage of its own; this runs them one after the
other, for they must not disturb each other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def main() -> int:
    """Run the benchmarks named, or all; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = 0
    for name in names:
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, FOLDER / f"{name}.py"], check=False).returncode
    return int(failed != 0)


if __name__ == "__main__":
    raise SystemExit(main())
