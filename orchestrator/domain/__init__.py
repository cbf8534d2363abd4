"""The language: frozen values that every other part speaks in. Pure: no clock, no I/O, no third-party package."""
