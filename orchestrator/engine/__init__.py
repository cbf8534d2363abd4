"""The rules of motion: `step(state, event) -> Step`. Pure: no clock, socket, random source, logger or third-party package."""
