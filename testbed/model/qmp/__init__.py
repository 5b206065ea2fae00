"""The QMP monitor of the model: JSON as QEMU reads and writes it, sessions, commands, events.

Imports stay light here, as the time from process start to greeting is a promise.
"""
