"""Make a replica set of running mongods, or adopt the one their data holds. Knows pymongo."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from streamq.embedded.command import SET_NAME
from streamq.embedded.node import Node
from streamq.errors import EmbeddedError

POLL_S = 0.005
NOT_YET_INITIALIZED = 94
ALREADY_INITIALIZED = 23
ACCESS = frozenset({13, 18})  # Unauthorized, AuthenticationFailed
HEARTBEAT_S = 2  # the server's default: an election timeout below it would end in elections without a reason

Config = dict[str, Any]
Client = MongoClient[dict[str, Any]]


@contextlib.contextmanager
def connected(node: Node, answer_s: float = 10.0) -> Iterator[Client]:
    """Connect to one mongod whatever its role in the set."""
    client: Client = MongoClient(
        node.host,
        node.port,
        directConnection=True,
        serverSelectionTimeoutMS=int(answer_s * 1000),
        connectTimeoutMS=int(answer_s * 1000),
        socketTimeoutMS=int(answer_s * 1000),
        **node.login,
    )
    try:
        yield client
    finally:
        client.close()


def form_set(nodes: Sequence[Node], election_timeout_ms: int | None, timeout_s: float) -> None:
    """Initiate the set, or adopt the stored one at these ports, and wait until it has a writable primary.

    With several nodes it also waits until the others follow. Raises `EmbeddedError` when that takes longer than
    `timeout_s`, or when a port answers that is not our mongod.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with connected(nodes[0]) as first:
            _check_is_ours(first, nodes[0].data)
            _configure(first, nodes, election_timeout_ms, deadline)
            _elect(first, nodes, deadline)
    except PyMongoError as error:
        raise nodes[0].failure(f"the replica set could not be formed: {error}") from error


def members(client: Client) -> list[dict[str, Any]]:
    """Return the members as this node sees them; none before it has a configuration."""
    try:
        return list(client.admin.command("replSetGetStatus")["members"])
    except OperationFailure:
        return []


def _check_is_ours(client: Client, data: Path) -> None:
    """Refuse a mongod that happened to be quicker on our port: the set of a stranger must not be touched."""
    try:
        options = client.admin.command("getCmdLineOpts")["parsed"]
        theirs = f"on {options.get('storage', {}).get('dbPath')}"
    except OperationFailure as error:
        if error.code not in ACCESS:
            raise
        theirs = "with users of its own"
    if theirs != f"on {data}":
        raise EmbeddedError(
            f"another mongod ({theirs}) answers on the port that was to be ours\nStart again, on another port."
        )


def _configure(client: Client, nodes: Sequence[Node], election_timeout_ms: int | None, deadline: float) -> None:
    """Store the configuration if it is missing or says something else. A stored one may take a moment to be loaded."""
    while True:
        try:
            stored: Config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED:
                raise
            if _initiate(client, new_config(nodes, election_timeout_ms)):
                return
            _wait(deadline, "a stored configuration was not loaded in time")
            continue
        wanted = moved_config(stored, nodes, election_timeout_ms)
        if wanted != stored:
            client.admin.command("replSetReconfig", wanted, force=True)
        return


def _initiate(client: Client, config: Config) -> bool:
    try:
        client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        if error.code == ALREADY_INITIALIZED:
            return False
        raise
    return True


def new_config(nodes: Sequence[Node], election_timeout_ms: int | None) -> Config:
    """Return the configuration of a new set."""
    return {
        "_id": SET_NAME,
        "version": 1,
        "members": [{"_id": number, "host": node.address} for number, node in enumerate(nodes)],
        "settings": _settings(election_timeout_ms),
    }


def moved_config(stored: Config, nodes: Sequence[Node], election_timeout_ms: int | None) -> Config:
    """Return the stored configuration with the members at their present ports; equal to it when nothing has changed."""
    if len(stored["members"]) != len(nodes):
        raise EmbeddedError(
            f"the data holds a set of {len(stored['members'])} members, not of {len(nodes)}\n"
            f"Open it with nodes={len(stored['members'])}, or use another directory."
        )
    moved = {
        **stored,
        "members": [{**member, "host": node.address} for member, node in zip(stored["members"], nodes, strict=True)],
        "settings": {**stored["settings"], **_settings(election_timeout_ms)},
    }
    return stored if moved == stored else {**moved, "version": stored["version"] + 1}


def _settings(election_timeout_ms: int | None) -> Config:
    if election_timeout_ms is None:
        return {}
    return {"electionTimeoutMillis": election_timeout_ms, "heartbeatTimeoutSecs": HEARTBEAT_S}


def is_primary(node: Node) -> bool:
    """Say whether this node takes writes now; a node that does not answer does not."""
    try:
        with connected(node, answer_s=2.0) as client:
            return _takes_writes(client)
    except PyMongoError:
        return False


def wait_healthy(nodes: Sequence[Node], timeout_s: float) -> None:
    """Wait until one node is a writable primary and all others follow it; `EmbeddedError` if that takes longer."""
    deadline = time.monotonic() + timeout_s
    down = [node for node in nodes if node.pid is None]
    if down:
        raise EmbeddedError(f"the replica set is not healthy: {down} does not run\nStart it: node.start().")
    try:
        with connected(nodes[0]) as client:
            _elect(client, nodes, deadline)
    except PyMongoError as error:
        raise nodes[0].failure(f"the replica set is not healthy: {error}") from error


def _elect(client: Client, nodes: Sequence[Node], deadline: float) -> None:
    """Wait for a primary and its followers; `client` is connected to the first node."""
    if len(nodes) > 1:
        while not _all_up(client, len(nodes) - 1):
            _wait(deadline, "not all members came up in time")
    # A member is called PRIMARY a moment before it takes writes.
    while not any(is_primary(node) for node in nodes):
        _wait(deadline, "no primary was elected in time")


def _all_up(client: Client, followers: int) -> bool:
    """Say whether one member is primary and the others follow; ask this one to be it when none is."""
    all_follow = ["SECONDARY"] * (followers + 1)
    try:
        states = sorted(member["stateStr"] for member in members(client))
        if states == all_follow:
            _step_up(client)
    except ServerSelectionTimeoutError:
        raise
    except ConnectionFailure:  # a member closes its connections when it steps down or rolls back: asked again
        return False
    return states == ["PRIMARY", *all_follow[1:]]


def _step_up(client: Client) -> None:
    """Elect this node without waiting for an election timeout (10 s by default) to run out."""
    with contextlib.suppress(OperationFailure):  # refused, e.g. when it lags or another was quicker: asked again
        client.admin.command("replSetStepUp")


def _takes_writes(client: Client) -> bool:
    return bool(client.admin.command("hello").get("isWritablePrimary"))


def _wait(deadline: float, failure: str) -> None:
    if time.monotonic() > deadline:
        raise EmbeddedError(
            f"the replica set could not be formed: {failure}\nThe machine may be overloaded: try again."
        )
    time.sleep(POLL_S)
