"""`make fuzz`: lead one of the readers by the coverage of its code (atheris), until the time is over or it fails.

atheris is no dependency of the tests: `make fuzz` keeps it in an environment of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["streamq.core"]):
    from tests.fuzz.readers import READERS


SEEDS = 32
SEED_BYTES = 2_048


def main(reader: str, seconds: str) -> None:
    """Fuzz one reader. It begins with bytes enough for whole documents: from nothing it would not find to one."""
    one: Any = READERS[reader]
    with tempfile.TemporaryDirectory() as corpus:
        for number in range(SEEDS):
            (Path(corpus) / str(number)).write_bytes(os.urandom(SEED_BYTES))
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-len_control=0", corpus]
        atheris.Setup([sys.argv[0], *options], one.hypothesis.fuzz_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
