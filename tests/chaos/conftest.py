"""The scene of the short rounds: one set, and one set of programs, for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from streamq.embedded import EmbeddedServer
from tests.chaos import round
from tests.chaos.report import Report
from tests.chaos.round import Round
from tests.chaos.scene import Place, Scene, three_nodes

SHORT_OPTIONS: Final = "&heartbeatFrequencyMS=1000&connectTimeoutMS=2000"
"""What tells a client sooner that a server is frozen; a long run takes streamq's own."""

SEED: Final = 20_261


class Stage:
    """Keeps a scene for the next round, unless a round went wrong on it."""

    def __init__(self, place: Place, directories: pytest.TempPathFactory) -> None:
        self._place = place
        self._directories = directories
        self._scene: Scene | None = None

    def play(self, one: Round) -> Report:
        """Play a round."""
        scene, self._scene = self._scene or self._opened(), None
        report: Report | None = None
        try:
            report = round.play(scene, one)
        finally:
            if report is not None and report.is_good:
                self._scene = scene
            else:
                scene.keep()
                scene.close()
        return report

    def close(self) -> None:
        """End the programs; they must do so in good order."""
        scene, self._scene = self._scene, None
        if scene is not None:
            with scene:
                died = scene.stop()
                assert not died, died

    def _opened(self) -> Scene:
        server, network = self._place
        directory = self._directories.mktemp("chaos")
        scene = Scene(server, directory, SEED, client_options=SHORT_OPTIONS, network=network)
        try:
            scene.open()
            scene.hire_all()
        except BaseException:
            scene.keep()
            scene.close()
            raise
        return scene


@pytest.fixture(scope="package")
def place() -> Iterator[Place]:
    """A set of three nodes, in a network of its own where there can be one."""
    with three_nodes() as place:
        yield place


@pytest.fixture(scope="package")
def three(place: Place) -> EmbeddedServer:
    """The set."""
    return place.server


@pytest.fixture(scope="package")
def stage(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where the short rounds are played."""
    stage = Stage(place, tmp_path_factory)
    yield stage
    stage.close()
