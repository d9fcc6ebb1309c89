"""`python -m streamq` is `streamq`."""

from __future__ import annotations

import sys

from streamq.cli import main

sys.exit(main())
