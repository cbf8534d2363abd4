"""What the daemon starts ends with it, also when the daemon ends in the very moment of the start."""

import os
import subprocess
import sys

from orchestrator.services.starting import dying_with


def status_of(parent: int) -> int:
    return subprocess.run(["true"], preexec_fn=dying_with(parent), check=False).returncode


def test_a_child_of_a_living_parent_goes_on():
    assert status_of(os.getpid()) == 0


def test_a_child_whose_parent_has_died_before_it_could_listen_does_not():
    """It has another parent by then."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    assert status_of(int(gone.stdout)) == 1
