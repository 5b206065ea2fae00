"""The migration itself, without I/O: bytes, times and requests in, effects out.

Source, destination, what is registered to be saved, RAM and the memory that it is of.
"""
