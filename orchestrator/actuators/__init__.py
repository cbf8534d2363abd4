"""Hands on the outside world: one file per kind, each with `ensure`: read, change, read back."""
