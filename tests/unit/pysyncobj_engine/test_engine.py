"""The engine's own edges: its package, its warnings, its refusals and its documents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lockd.raft.port import Member, RaftError, ReplicaId, UnavailableError
from lockd.raft.pysyncobj_engine import PySyncObjEngine, warnings_text
from tests.e2e.engine_port.harness import JournalMachine
from tests.unit.pysyncobj_engine.support import A, B, settings

ROOT = Path(__file__).parents[3]


def engine(said: list[str] | None = None) -> PySyncObjEngine:
    """A cluster of one, in memory."""
    return PySyncObjEngine(settings(A, 1), JournalMachine(), warn=(said if said is not None else []).append)


async def test_what_is_not_promised_is_said_at_start() -> None:
    """Every start hands the whole list to the caller."""
    said: list[str] = []
    built = engine(said)
    assert said == []
    await built.start()
    assert said == warnings_text()
    await built.stop()


def test_what_is_not_promised_is_in_the_documents() -> None:
    """docs/engine-pysyncobj.md has every sentence of the list, word for word."""
    text = " ".join((ROOT / "docs" / "engine-pysyncobj.md").read_text(encoding="utf-8").split())
    for sentence in warnings_text():
        assert sentence in text


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package, start raises one sentence that says what to install, and touches no directory."""
    monkeypatch.setitem(sys.modules, "pysyncobj.version", None)
    with pytest.raises(RaftError, match=r"pip install 'lockd\[pysyncobj\]'"):
        await PySyncObjEngine(settings(A, 1, data_dir=tmp_path / "data"), JournalMachine()).start()
    assert not (tmp_path / "data").exists()


async def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine reaches into one version of the package and works with no other."""
    import pysyncobj.version

    monkeypatch.setattr(pysyncobj.version, "VERSION", "0.3.18")
    with pytest.raises(RaftError, match=r"0\.3\.18 is installed"):
        await engine().start()


def test_the_module_can_be_imported_without_the_package() -> None:
    """Importing the engine does not import PySyncObj."""
    code = "import sys, lockd.raft.pysyncobj_engine; sys.exit('pysyncobj' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


async def test_membership_changes_are_refused_with_the_reason() -> None:
    """`change_member` raises, and says why and what to do."""
    built = engine()
    with pytest.raises(RaftError, match="two leaders"):
        await built.change_member(Member(B, "127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(RaftError, match="two leaders"):
        await built.change_member(None, remove=ReplicaId("a"))


async def test_nothing_is_taken_before_start() -> None:
    """An engine that does not run raises UnavailableError, and has a status."""
    built = engine()
    with pytest.raises(UnavailableError):
        built.propose(b"x")
    with pytest.raises(UnavailableError):
        await built.read_barrier(1.0)
    assert built.leader() is None
    assert built.status().failed is None


async def test_a_snapshot_of_nothing_is_none() -> None:
    """Before anything was applied there is nothing to write: index 0."""
    ports_of_nobody = settings(A, 2)
    built = PySyncObjEngine(ports_of_nobody, JournalMachine(), warn=lambda _: None)
    await built.start()
    assert await built.snapshot() == 0
    await built.stop()
