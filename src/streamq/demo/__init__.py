"""A run to look at: `python -m streamq.demo [--dir DIR]`, or `make demo`.

One task for every `.py` file of Python's own standard library (or of DIR) on an embedded MongoDB; two worker
processes parse them and count what is in them. `tree` says which files, `census` is the application with its one
handler, `crew` and `crewman` are the two ends of a worker process, `job` puts and waits, `screen` shows it happen,
`tally` and `report` say what came of it.
"""
