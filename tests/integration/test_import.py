"""What importing streamq brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import streamq

SOURCE = str(Path(streamq.__file__).parents[1])


def test_importing_streamq_imports_neither_the_embedded_server_nor_the_command_line() -> None:
    """Both take long, and most programs need neither."""
    code = "import sys, streamq; print([n for n in sys.modules if n.startswith(('streamq.embedded', 'streamq.cli'))])"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SOURCE}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
