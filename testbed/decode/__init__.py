"""A migration stream read for people: from wherever its bytes are, without running anything."""
