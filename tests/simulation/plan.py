"""What one run is to be: who takes part, what is put and when, and what goes wrong. Data only: drawn from a seed, made
smaller piece by piece when it fails, printed, read back."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
from bson import ObjectId

from streamq import Rate
from streamq.core.recurrence import Missed

Lost = Literal["before", "after", "late", "half", "slow"]
"""What happens to one call: it is not sent; its reply is lost; it takes effect only later, though its sender has given
up waiting; the first half of it takes effect; it takes its time to take effect, and is answered then."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """The root of what a plan consists of."""


class Host(Part, frozen=True):
    """A process that works. `stops_at`: it is told to stop then, in good order or at once; nobody takes its place.

    `offset_s` is where its monotonic clock began, `skew_s` how wrong its wall clock is. `lag_s` is about how long a
    message takes one way. `swift`: the thread that reads its stream claims. Its stream may tell wakes out of order,
    twice, or (with a safety scan) not at all. One that is `bare` runs no handlers: each of its slots claims for itself.
    """

    name: str
    slots: int = 2
    queues: tuple[str, ...] = ("a",)
    starts_at: float = 0.0
    stops_at: float | None = None
    stops_in_order: bool = False
    offset_s: float = 0.0
    skew_s: float = 0.0
    lag_s: float = 0.005
    swift: bool = False
    reorders: bool = False
    twice: float = 0.0
    drops: float = 0.0
    bare: bool = False


class Put(Part, frozen=True):
    """A task. `key` names it for ever; `by` is the host that puts it. It fails `fails` times, and
    takes `run_s` each time. With `again` it is put again until that is acknowledged. `after` is another's key; its
    handler stops `stubborn_s` after it was cancelled; one that is `timed` may take half a second."""

    key: int
    at: float = 0.0
    by: str = "producer"
    queue: str = "a"
    run_s: float = 0.0
    fails: int = 0
    max_attempts: int = 3
    delay_s: float = 0.0
    priority: int = 0
    group: str | None = None
    unique: str | None = None
    after: int | None = None
    again: bool = True
    deletes: bool = False
    stubborn_s: float = 0.0
    timed: bool = False
    reports: bool = False
    rate_key: str | None = None

    def id(self, schedule: int) -> ObjectId:
        """Return the task's id in a run."""
        return ObjectId(hashlib.blake2b(f"{schedule}:{self.key}".encode(), digest_size=12).digest())


class Limit(Part, frozen=True):
    """What every host says of a queue: how many of its tasks may run, in all and of each key, and how often one may
    start: `burst` at once, and one more every `token_s`."""

    queue: str = "a"
    running: int | None = None
    key_running: int | None = None
    burst: int | None = None
    token_s: float = 0.2

    @property
    def rate(self) -> Rate | None:
        """The rate of starts."""
        return None if self.burst is None else Rate(1, per_s=self.token_s, burst=self.burst)


class Recur(Part, frozen=True):
    """A handler that recurs in a queue, declared by every host that runs handlers, until somebody disables it."""

    queue: str = "a"
    every_s: float = 1.0
    until: float = 4.0
    missed: Missed = "all"
    overlap: bool = True

    @property
    def name(self) -> str:
        """The handler's."""
        return f"tick-{self.queue}"


class Cancel(Part, frozen=True, tag="cancel"):
    """Somebody cancels a task."""

    key: int
    at: float


class Pause(Part, frozen=True, tag="pause"):
    """Somebody pauses a queue, and resumes it."""

    queue: str
    at: float
    for_s: float


class Freeze(Part, frozen=True, tag="freeze"):
    """A host makes no progress for so long, and then goes on."""

    host: str
    at: float
    for_s: float


class Kill(Part, frozen=True, tag="kill"):
    """A host ends between two instructions. Another of its kind takes its place after a while."""

    host: str
    at: float
    again_s: float = 0.5


class Outage(Part, frozen=True, tag="outage"):
    """Calls of a host fail, before or after they took effect, and its stream ends. "all": of all, the producer too."""

    host: str
    at: float
    for_s: float


class StreamEnd(Part, frozen=True, tag="stream_end"):
    """A host's stream ends ("all": those of all). `dead`: it must be opened anew."""

    host: str
    at: float
    dead: bool = True


class Stall(Part, frozen=True, tag="stall"):
    """What a host sends, or is sent, is on its way until the end of that, as through a network that loses packets."""

    host: str
    at: float
    for_s: float


class Silence(Part, frozen=True, tag="silence"):
    """A host's stream tells nothing for so long, and then all at once."""

    host: str
    at: float
    for_s: float


class Call(Part, frozen=True, tag="call"):
    """The `nth` call of a host to one method of the store goes wrong. It may be the producer."""

    host: str
    method: str
    nth: int
    how: Lost
    hold_s: float = 0.0  # how long until its sender hears of that
    late_s: float = 0.3  # how much later one that is late, or slow, takes effect


Act = Cancel | Pause
Fault = Freeze | Stall | Kill | Outage | StreamEnd | Silence | Call


class Plan(Part, frozen=True):
    """One run. `schedule` is the seed of all that is not said here: lags, and who comes first."""

    schedule: int
    hosts: tuple[Host, ...] = ()
    puts: tuple[Put, ...] = ()
    acts: tuple[Act, ...] = ()
    faults: tuple[Fault, ...] = ()
    limits: tuple[Limit, ...] = ()
    recurs: tuple[Recur, ...] = ()
    lease_s: float = 3.0
    safety_scan_s: float | None = None

    @property
    def is_sound(self) -> bool:
        """Say whether everything can come to its end: somebody stays for each queue, and what is told to nobody is
        looked for."""
        stay = [host for host in self.hosts if host.stops_at is None]
        served = {queue for host in stay for queue in host.queues}
        run = {queue for host in stay if not host.bare for queue in host.queues}
        heard = self.safety_scan_s is not None or not any(host.drops for host in self.hosts)
        fires = all(recur.queue in run for recur in self.recurs)
        return bool(stay) and all(put.queue in served for put in self.puts) and heard and fires

    def put_of(self, key: int | None) -> Put | None:
        """Return the put of that key, if it is part of the run."""
        return next((put for put in self.puts if put.key == key), None)

    def __str__(self) -> str:
        parts: list[Part] = [*self.hosts, *self.limits, *self.recurs, *self.puts, *self.acts, *self.faults]
        head = f"lease_s={self.lease_s:g} safety_scan_s={self.safety_scan_s} schedule={self.schedule}"
        return "\n".join([head, *(f"  {_shown(part)}" for part in parts)])


def _shown(part: Part) -> str:
    fields = msgspec.structs.fields(part)
    said = [(one.name, getattr(part, one.name)) for one in fields]
    changed = [f"{name}={value!r}" for (name, value), one in zip(said, fields, strict=True) if value != one.default]
    return f"{type(part).__name__}({', '.join(changed)})"


def encoded(plan: Plan) -> str:
    """Write a plan as JSON."""
    return msgspec.json.encode(plan).decode()


def decoded(text: str) -> Plan:
    """Read a plan that was written by `encoded`."""
    return msgspec.json.decode(text, type=Plan)
