"""Probes look at the world and report what they saw. They never conclude."""
