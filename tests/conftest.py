"""What all tests have in common."""

from hypothesis import settings

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("explore", deadline=None)
# What decides whether a change lands must not depend on luck; what looks for more may.
settings.register_profile("the same each time", deadline=None, derandomize=True)
settings.load_profile("the same each time")
