"""What is missing on this machine."""


class Lacks(Exception):
    """The environment lacks what a scenario needs; the sentence says what, and how to get it."""
