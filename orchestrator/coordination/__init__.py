"""The mediator: one port, three adapters (ZooKeeper, SQLite, memory) under one contract suite."""
