"""Where a fault strikes: at which element, in which of its bytes, for the how-manieth time."""
