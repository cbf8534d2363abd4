"""Redis, and what speaks its language (Valkey): looked at, promoted, led, held, started."""
