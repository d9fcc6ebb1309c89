"""The compose file for development: three members of one set, reachable from the host at the addresses it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamq.embedded.binary import COMPOSE_LINE

FILE = Path(__file__).parents[2] / "docker-compose.replset.yml"
MEMBERS = ("mongo1", "mongo2", "mongo3")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return parsed


def argument(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def published(compose: dict[str, Any]) -> list[str]:
    return [str(port) for service in compose["services"].values() for port in service.get("ports", [])]


def initiate_script(compose: dict[str, Any]) -> str:
    return argument(compose["services"]["initiate"]["command"], "--eval")


def test_the_line_that_errors_advise_names_this_file() -> None:
    assert argument(COMPOSE_LINE.split(), "-f") == FILE.name


def test_three_members_run_in_one_set_each_on_a_port_of_its_own(compose: dict[str, Any]) -> None:
    commands = [compose["services"][member]["command"] for member in MEMBERS]
    assert {argument(command, "--replSet") for command in commands} == {"rs0"}
    assert len({argument(command, "--port") for command in commands}) == 3
    assert {service["image"] for service in compose["services"].values()} == {"mongo:8"}


def test_the_set_is_initiated_with_each_member_exactly_once(compose: dict[str, Any]) -> None:
    hosts = re.findall(r'host: "([^"]+)"', initiate_script(compose))
    ports = [argument(compose["services"][member]["command"], "--port") for member in MEMBERS]
    assert hosts == [f"127.0.0.1:{port}" for port in ports]
    assert re.findall(r"\b_id: (\d)", initiate_script(compose)) == ["0", "1", "2"]


def test_initiating_waits_for_all_members_and_spares_a_set_that_exists(compose: dict[str, Any]) -> None:
    initiate = compose["services"]["initiate"]
    assert initiate["depends_on"] == {member: {"condition": "service_healthy"} for member in MEMBERS}
    assert initiate["restart"] == "no"
    script = initiate_script(compose)
    assert script.index("rs.status()") < script.index("NotYetInitialized") < script.index("rs.initiate(")


def test_every_member_is_asked_for_its_health_on_its_own_port(compose: dict[str, Any]) -> None:
    for member in MEMBERS:
        service = compose["services"][member]
        test = service["healthcheck"]["test"]
        assert test[0] == "CMD"
        assert argument(test, "--port") == argument(service["command"], "--port")
        assert "db.hello().ok" in argument(test, "--eval")
        assert service["healthcheck"]["retries"] > 1


def test_ports_are_published_on_loopback_only_and_unchanged(compose: dict[str, Any]) -> None:
    """A published port that differs from the member's own would send clients to an address where nobody is."""
    wanted = {argument(compose["services"][member]["command"], "--port") for member in MEMBERS}
    assert sorted(published(compose)) == sorted(f"127.0.0.1:{port}:{port}" for port in wanted)


def test_members_share_one_network_that_outlives_each_of_them(compose: dict[str, Any]) -> None:
    assert {compose["services"][name]["network_mode"] for name in (*MEMBERS, "initiate")} == {"service:network"}
    assert "mongod" not in compose["services"]["network"]["entrypoint"]


def test_every_member_keeps_its_data_in_a_volume_of_its_own(compose: dict[str, Any]) -> None:
    mounts = [volume for member in MEMBERS for volume in compose["services"][member]["volumes"]]
    assert mounts == [f"{member}:/data/db" for member in MEMBERS]
    assert set(compose["volumes"]) == set(MEMBERS)


def test_the_uri_in_the_heading_names_the_published_addresses(compose: dict[str, Any]) -> None:
    uri = re.search(r"mongodb://(\S+)/\?replicaSet=rs0", FILE.read_text())
    assert uri is not None
    assert uri[1].split(",") == [port.rpartition(":")[0] for port in published(compose)]


def test_it_says_that_it_is_for_development_only() -> None:
    assert "DEVELOPMENT ONLY" in FILE.read_text()
