"""A run as tables in markdown."""

from __future__ import annotations

from bench.peers.result import LESS_IS_BETTER, Entry, Figure, Run

OURS = "streamq"
FLOOR = "floor"

NAMES: dict[Figure, str] = {
    "p50_ms": "pickup p50",
    "p99_ms": "pickup p99",
    "throughput_per_s": "throughput",
    "drain_per_s": "drain",
}


def markdown(run: Run) -> str:
    """Write the whole run: what was measured on what, the figures, who is ahead where, and with which settings."""
    parts = [_head(run), _figures(run), "\n".join(ahead(run)), _settings(run)]
    if run.skipped:
        parts.append("\n".join(f"- {name} did not take part: {why}." for name, why in run.skipped.items()))
    return "\n\n".join(parts) + "\n"


def _head(run: Run) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items() if value is not None)
    return (
        f"Measured {run.at}: {run.rounds} rounds in turns, {run.seconds:g} s each, in {run.took_s / 60:.0f} min;"
        f" {machine}. One producer and one consumer process each, no-op handlers. Pickup: {run.rate:g} puts/s, from the"
        " put's call to the handler's first line; cores: busy meanwhile. Throughput: from the first put's call until"
        " all is settled. Drain: from the first handler's first line until all is settled. Rates: the median round's."
    )


def _figures(run: Run) -> str:
    head = [
        "queue",
        "wake",
        "pickup p50 ms",
        "p99 ms",
        "cores consumer / server",
        "throughput /s",
        "drain /s",
        "tasks a round",
    ]
    rows = [_row(entry) for entry in run.entries]
    return "\n".join([_line(head), _line(["---", "---", *["--:"] * 6]), *map(_line, rows)])


def _row(entry: Entry) -> list[str]:
    if entry.failed is not None:
        return [entry.name, entry.wake, "failed: " + entry.failed.replace("|", "/"), *[""] * 5]
    counts = [f"{rates[-1].tasks:,}" if rates else "-" for rates in (entry.throughput, entry.drain)]
    return [
        f"**{entry.name}**" if entry.name == OURS else entry.name,
        entry.wake,
        _number(entry.figure("p50_ms"), 2),
        _number(entry.figure("p99_ms"), 2),
        _cores(entry),
        _rate(entry, "throughput_per_s"),
        _rate(entry, "drain_per_s"),
        " / ".join(counts),
    ]


def _cores(entry: Entry) -> str:
    if not entry.latency:
        return "-"
    mean = sum(round_.consumer_cores for round_ in entry.latency) / len(entry.latency)
    servers = [round_.server_cores for round_ in entry.latency if round_.server_cores is not None]
    return f"{mean:.2f} / " + (f"{sum(servers) / len(servers):.2f}" if servers else "-")


def _rate(entry: Entry, name: Figure) -> str:
    rounds = entry.throughput if name == "throughput_per_s" else entry.drain
    figure = _number(entry.figure(name), 0)
    return figure if all(one.whole for one in rounds) else figure + " (stopped)"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def ahead(run: Run) -> list[str]:
    """Say for each figure which queues are ahead of streamq, and how streamq stands to the floor."""
    ours, floor = run.entry(OURS), run.entry(FLOOR)
    if ours is None:
        return []
    lines = []
    for name, title in NAMES.items():
        mine = ours.figure(name)
        if mine is None:
            continue
        others = [(entry.name, entry.figure(name)) for entry in run.entries if is_peer(entry)]
        better = [(who, value) for who, value in others if value is not None and is_ahead(name, value, mine)]
        better.sort(key=lambda one: one[1], reverse=name not in LESS_IS_BETTER)
        digits = 2 if name in LESS_IS_BETTER else 0
        said = ", ".join(f"{who} ({_number(value, digits)}, {value / mine:.2f} of streamq's)" for who, value in better)
        line = f"- {title}: ahead of streamq ({_number(mine, digits)}): {said or 'none of these'}."
        if floor is not None and (lowest := floor.figure(name)):
            line += f" streamq / floor: {mine / lowest:.2f}."
        lines.append(line)
    return lines


def is_peer(entry: Entry) -> bool:
    """Say whether streamq is compared with it."""
    return entry.name not in (OURS, FLOOR) and entry.failed is None


def is_ahead(name: Figure, theirs: float, mine: float) -> bool:
    """Say which of two figures is the better one."""
    return theirs < mine if name in LESS_IS_BETTER else theirs > mine


def _settings(run: Run) -> str:
    head = ["queue", "versions", "server", "durability", "settings"]
    rows = [[entry.name, _versions(entry), entry.server, entry.durability, entry.settings] for entry in run.entries]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, rows)])


def _versions(entry: Entry) -> str:
    return ", ".join(f"{name} {number}" for name, number in entry.versions.items())


# --- in a page -------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def summary(run: Run) -> str:
    """Say in short what the plot shows, for a page that leads to the tables."""
    return (
        f"![Pickup latency and tasks a second of each queue](bench/peers/latest.svg)\n\n"
        f"Measured {run.at[:10]}, {run.machine.get('cpu')}, {run.machine.get('cores')} cores, load before the run"
        f" {run.machine.get('load')}.\n\n" + "\n".join(ahead(run)) + "\n"
    )


def placed(page: str, tables: str) -> str:
    """Put the tables between their marks in a page. Raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the tables: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"
