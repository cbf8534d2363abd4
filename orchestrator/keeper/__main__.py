"""`python -m orchestrator.keeper SETUP.json`: run a keeper."""

import sys

from orchestrator.keeper.process import main

sys.exit(main(sys.argv[1:]))
