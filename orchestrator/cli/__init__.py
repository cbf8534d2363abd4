"""The command `tanist`."""
