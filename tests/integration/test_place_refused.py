"""A wrong URI or name of a place is the caller's to mend: `UsageError`, and never the password."""

from __future__ import annotations

import pytest

from streamq import StreamQ, UsageError


@pytest.mark.parametrize("uri", ["mongodb://[::1", "mongodb://me:s3cret@h:port", "mongodb://h:99999", "http://h"])
def test_a_uri_that_is_none_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(UsageError, match="cannot connect") as caught:
        StreamQ(uri).blocking.store()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("database", ["", "a b", "a.b", "$x", "x/y", "\udcff", "x" * 64, "ü" * 32])
def test_a_database_name_that_cannot_be_is_refused(database: str) -> None:
    with pytest.raises(UsageError, match=r"^database="):
        StreamQ("mongodb://localhost/", database=database)


def test_a_database_name_in_any_language_is_taken() -> None:
    StreamQ("mongodb://localhost/", database="Größe-7_é" + "x" * 50)


@pytest.mark.parametrize("collection", ["", "a..b", "$x", "a\0b", "system.users", "\udcff", "x" * 101])
def test_a_collection_name_that_cannot_be_is_refused(collection: str) -> None:
    with pytest.raises(UsageError, match="collection"):
        StreamQ("mongodb://localhost/", collection=collection).blocking.store()
