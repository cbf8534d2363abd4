"""Tanist: a failover orchestrator for PostgreSQL, Redis and other primary/standby services."""

__version__ = "0.1.0"
