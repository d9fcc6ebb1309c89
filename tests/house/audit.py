"""`make audit`: are there known vulnerabilities in the packages that streamq needs? Exit code 1 when there are.

pip-audit asks PyPI. Where PyPI answers with packages only, as a mirror does, it knows of no package: then nothing has
been audited, which is said and is no failure. A run that may reach the database says how many packages it looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

NEEDED: Final = ("pymongo", "dnspython", "trio", "msgspec", "cronsim", "cyclopts", "rich", "cryptography")
"""What comes with `streamq[cli]`, and what its examples use."""


def installed(python: str) -> list[str]:
    """Return the requirements that say which versions are installed."""
    listed: list[dict[str, str]] = json.loads(
        subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True).stdout
    )
    return [f"{one['name']}=={one['version']}" for one in listed if one["name"].lower() in NEEDED]


def told(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the exit code and what to say of a report of pip-audit."""
    packages = report["dependencies"]
    audited = [one for one in packages if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none yet'}"
        for one in audited
        for found in one["vulns"]
    ]
    if lines:
        return 1, lines
    if not audited:
        return 0, ["make audit: NOTHING WAS AUDITED: no database of vulnerabilities can be reached from here"]
    left = [one["name"] for one in packages if "skip_reason" in one]
    unknown = f"; not known there: {', '.join(left)}" if left else ""
    return 0, [f"make audit: {len(audited)} packages without a known vulnerability{unknown}"]


def main(pip_audit: str, python: str) -> int:
    """Audit what is installed for `python`."""
    asked = [
        pip_audit,
        "--disable-pip",
        "--no-deps",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "-r",
        "/dev/stdin",
    ]
    try:
        done = subprocess.run(asked, input="\n".join(installed(python)).encode(), capture_output=True, timeout=120)
        report = json.loads(done.stdout)
    except (FileNotFoundError, subprocess.TimeoutExpired, json.JSONDecodeError):
        report = {"dependencies": []}
    code, lines = told(report)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
