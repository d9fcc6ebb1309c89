"""The chaos suite: a real three-node set under load, faults, and a checker of what became of every task.

    producers, workers ──each its own append-only log──▶ history ─┐
    auditor (a change stream: what the majority has, in order) ───┼─▶ checker (pure) ─▶ findings
    the database after a complete drain ──────────────────────────┘
    probe (a fresh client that writes, again and again) ─────────────▶ outages (pure) ─▶ report

The model is the check of Jepsen's total queue: what was acknowledged is accounted for at the end, nothing ran that was
never put; and stricter than that, no write of a holder takes effect once another claim was given. docs/reliability.md
says what is promised and how to run it; `python -m tests.chaos --help` runs it long.
"""
