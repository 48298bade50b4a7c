"""A node with a corrupt or foreign data directory refuses to start, and says which file and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockd_client.testing import LocalCluster, NodeProcess

EXIT_USAGE = 64
EXIT_DATA = 73


@pytest.fixture
def stopped(tmp_path: Path) -> LocalCluster:
    """One node that has run and written its log, and has stopped cleanly."""
    cluster = LocalCluster(1, tmp_path / "cluster")
    with cluster:
        pass
    return cluster


def refusal(node: NodeProcess) -> str:
    """Start the node and return what it said when it refused."""
    node.log_path.write_text("")
    node.start()
    assert node.wait_exit() == EXIT_DATA
    said = node.log()
    assert "refusing to start" in said
    assert "Traceback" not in said
    return said


def journal_of(node: NodeProcess) -> Path:
    """The node's newest journal file."""
    files = sorted(p for p in node.directory.iterdir() if p.name.startswith("journal"))
    assert files, sorted(p.name for p in node.directory.iterdir())
    return files[-1]


def test_a_clean_directory_starts_again(stopped: LocalCluster) -> None:
    """The control: the same directory, untouched, is accepted."""
    stopped.start()
    stopped.stop()


def test_a_damaged_header_is_refused(stopped: LocalCluster) -> None:
    """A journal whose beginning was overwritten is named."""
    journal = journal_of(stopped.nodes[0])
    with journal.open("r+b") as file:
        file.seek(3)
        file.write(b"\xff\xff\xff")
    assert journal.name in refusal(stopped.nodes[0])


def test_another_cluster_is_refused(stopped: LocalCluster) -> None:
    """A directory of another cluster is foreign."""
    node = stopped.nodes[0]
    node.arguments = tuple("other" if a == stopped.name else a for a in node.arguments)
    assert "other" in refusal(node)


def test_another_replica_is_refused(stopped: LocalCluster) -> None:
    """A directory of another replica of the same cluster is foreign: two replicas never share a history."""
    node = stopped.nodes[0]
    node.arguments = tuple(a.replace("n1", "n9") if a == "n1" or a.startswith("n1=") else a for a in node.arguments)
    assert "n9" in refusal(node)


def test_a_directory_of_other_files_is_refused(stopped: LocalCluster) -> None:
    """A directory that holds what lockd did not write is not taken over."""
    stranger = stopped.nodes[0].directory / "thesis.tex"
    stranger.write_text("\\documentclass{article}")
    assert stranger.name in refusal(stopped.nodes[0])
    assert stranger.read_text() == "\\documentclass{article}"


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    """A second node on the directory of a running one refuses to start, and the first goes on."""
    with LocalCluster(1, tmp_path / "cluster") as running:
        first = running.nodes[0]
        other = LocalCluster(1, tmp_path / "cluster").nodes[0]
        other.log_path = tmp_path / "second.log"
        assert refusal(other)
        assert first.status().role == "leader"


def test_a_node_without_a_directory_says_what_to_do(tmp_path: Path) -> None:
    """`lockd serve` without --data is a usage error that names the way out."""
    node = NodeProcess("n1", tmp_path / "n1", 1, 2, ["--id", "n1"])
    node.start()
    assert node.wait_exit() == EXIT_USAGE
    assert "lockd dev --memory" in node.log()
