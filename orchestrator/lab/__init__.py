"""The laboratory: a whole group on this machine, a client that writes, a fault, and what came of it, measured."""
