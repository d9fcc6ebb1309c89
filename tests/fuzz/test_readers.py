"""The readers of what others have stored or sent, for a short while."""

from __future__ import annotations

import pytest

from tests.fuzz.readers import READERS


@pytest.mark.parametrize("reader", READERS)
def test_whatever_is_stored_or_sent_is_read_or_refused(reader: str) -> None:
    READERS[reader]()
