"""A whole group in virtual time: the real engine and the keeper's real core, everything around them seeded."""
