"""The process: command line, character devices, disks, NICs, connections, and what runs in it.

The shells around `migration`, `guest`, `snapshots` and `qmp`, put together by `main`.
"""
