"""What all tests have in common."""

from hypothesis import settings

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
