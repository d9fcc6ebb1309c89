"""Where an app looks for its server, and what it says of its handlers, before it connects to anything."""

from __future__ import annotations

import pytest

from streamq import StreamQ, UsageError
from streamq.testing import memory_app


def test_point_at_replaces_only_what_it_names() -> None:
    app = StreamQ("mongodb://old.invalid/?replicaSet=rs0", database="shop", collection="jobs")
    try:
        app.point_at("mongodb://new.invalid/?replicaSet=rs0", database="mall")
        assert app.client._topology_settings.seeds == {("new.invalid", 27017)}
        assert repr(app) == "<StreamQ database='mall' collection='jobs'>"
    finally:
        app.close()


def test_point_at_is_refused_when_the_app_has_connected() -> None:
    app = memory_app()
    with pytest.raises(UsageError, match="too late"):
        app.point_at("mongodb://new.invalid/")


def test_handlers_shows_what_was_declared_and_cannot_be_changed() -> None:
    app = StreamQ()

    @app.task(queue="images", name="img.resize")
    def resize(path: str) -> None: ...

    assert app.handlers["img.resize"].queue == "images"
    with pytest.raises(TypeError):
        app.handlers["other"] = app.handlers["img.resize"]  # type: ignore[index]
