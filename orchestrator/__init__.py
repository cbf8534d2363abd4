"""Tanist, a failover orchestrator."""

__version__ = "0.1.0"
