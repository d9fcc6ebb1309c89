"""`make audit`: are there known vulnerabilities in the packages that streamq needs? Exit code 1 when there are.

Audited is all that `pyproject.toml` asks for on behalf of users and all that these packages need in turn, each in the
version that is installed: nobody keeps a list.

pip-audit asks PyPI. Where PyPI answers with packages only, as a mirror does, it knows of no package: then nothing has
been audited, which is said and is no failure. A run that may reach the database says how many packages it looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
NOT_FOR_USERS: Final = "dev"
OF_EXAMPLES: Final = ("cryptography",)
"""What no extra asks for, and who copies an example needs."""

Versions = dict[str, str | None]
"""By name; None: not installed here."""


def wanted(pyproject: Path = PYPROJECT) -> list[Requirement]:
    """Return what streamq, each of its extras for users, and its examples ask for."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != NOT_FOR_USERS]
    asked = [Requirement(line) for lines in (project["dependencies"], *extras, OF_EXAMPLES) for line in lines]
    # An extra may name other extras of the same project: they are here by themselves.
    return [one for one in asked if one.name != project["name"] and _applies(one, "")]


def installed(asked: Iterable[Requirement]) -> Versions:
    """Return the versions of these packages and of all that they need in turn on this machine."""
    found: Versions = {}
    seen: set[tuple[str, str]] = set()
    left = [(one.name, extra) for one in asked for extra in ("", *one.extras)]
    while left:
        name, extra = canonicalize_name(left[-1][0]), left.pop()[1]
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            continue
        found[name] = package.version
        needed = [one for one in map(Requirement, package.requires or ()) if _applies(one, extra)]
        left += [(one.name, more) for one in needed for more in ("", *one.extras)]
    return dict(sorted(found.items()))


def _applies(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


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


def asked_of(pip_audit: str, versions: Versions) -> dict[str, Any]:
    """Return the report of pip-audit on what is installed; an empty one where it does not run."""
    # Without dependencies, as those are among the versions: else pip would look for the newest of each.
    flags = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
    lines = [f"{name}=={version}" for name, version in versions.items() if version is not None]
    try:
        done = subprocess.run(
            [pip_audit, *flags, "-r", "/dev/stdin"], input="\n".join(lines).encode(), capture_output=True, timeout=300
        )
        report: dict[str, Any] = json.loads(done.stdout)
    except (FileNotFoundError, subprocess.TimeoutExpired, json.JSONDecodeError):
        return {"dependencies": []}
    return report


def main(pip_audit: str) -> int:
    """Audit what is installed beside this interpreter."""
    versions = installed(wanted())
    code, lines = told(asked_of(pip_audit, versions))
    absent = [name for name, version in versions.items() if version is None]
    if absent:
        code, lines = 1, [*lines, f"make audit: not installed here, so not audited: {', '.join(absent)}"]
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
