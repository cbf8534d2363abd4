"""`python -m orchestrator.cli` is `tanist`."""

from orchestrator.cli.main import main

main()
