"""Draw the life of a task from its transition table, into docs/lifecycle.md.

.venv/bin/python docs/draw_lifecycle.py            write it
.venv/bin/python docs/draw_lifecycle.py --check    fail when it is not current (a test does this)
"""

from __future__ import annotations

import sys
from pathlib import Path

from streamq.core.document import TERMINAL, Status
from streamq.core.transitions import BORN, MEANINGS, TABLE

PAGE = Path(__file__).resolve().parent / "lifecycle.md"
BEGIN, END = "<!-- drawn from core/transitions.py by draw_lifecycle.py: begin -->", "<!-- drawn: end -->"


def diagram() -> str:
    """Draw the states; moves between the same two share an arrow."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {status}: {move}" for move, status in BORN.items()]
    for status, moves in TABLE.items():
        by_target: dict[Status, list[str]] = {}
        for move, target in moves.items():
            by_target.setdefault(target, []).append(move)
        lines += [f"    {status} --> {target}: {', '.join(names)}" for target, names in by_target.items()]
    lines += [f"    {status} --> [*]: removed" for status in TERMINAL]
    return "\n".join([*lines, "```"])


def table() -> str:
    """List the moves with what they mean."""
    rows = ["| move | from | to | meaning |", "| --- | --- | --- | --- |"]
    for move, meaning in MEANINGS.items():
        ways = [(status, moves[move]) for status, moves in TABLE.items() if move in moves]
        came = ", ".join(f"`{status}`" for status, _ in ways) or "(new)"
        went = ", ".join(f"`{target}`" for target in dict.fromkeys([target for _, target in ways] or [BORN[move]]))
        rows.append(f"| `{move}` | {came} | {went} | {meaning} |")
    return "\n".join(rows)


def drawn(page: str) -> str:
    """Return the page with its drawn part made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{diagram()}\n\n{table()}\n\n{END}{after}"


def main() -> None:
    """Write the page, or check it."""
    now = PAGE.read_text()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(drawn(now))
    elif now != drawn(now):
        sys.exit(f"{PAGE.name} is not current: run .venv/bin/python docs/draw_lifecycle.py")


if __name__ == "__main__":
    main()
