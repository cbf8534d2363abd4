"""The daemon: probes, engine, mediator session, actuators and API, put together and kept running."""
