"""The keeper: the small process that holds the right to serve, and stops the service when it ends (design, section 5)."""
