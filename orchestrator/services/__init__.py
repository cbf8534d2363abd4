"""The services that Tanist runs: one port, one package per kind."""
