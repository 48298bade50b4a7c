"""The shape of the code: imports, generated files, tests that say what they promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*command: str) -> str:
    """Run a tool in the project's root; its output, which is the message of a failure."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_point_down() -> None:
    """Layers, purity and the separation of ledger and client hold (design: direction of imports)."""
    assert "0 broken" in run(str(BIN / "lint-imports"))


@pytest.mark.parametrize("tool", ["protoc.py", "unasync.py"])
def test_generated_files_are_current(tool: str) -> None:
    """Stubs and the sync client are what their sources give."""
    run(sys.executable, f"tools/{tool}", "--check")


FILES = sorted(ROOT.glob("tests/**/test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_states_the_behaviour_it_promises(file: Path) -> None:
    """Each test function has a docstring, and its first line is a sentence."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    silent = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_readmes_commands_exist() -> None:
    """Each `make` target that the README names is one."""
    named = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_links_in_the_docs_lead_somewhere() -> None:
    """Every relative link of README and docs points at a file that is there."""
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_guarantee_names_tests_that_exist() -> None:
    """docs/guarantees.md points each promise at files of tests; none of them is gone."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|chaos|bench|examples)/[\w/.-]+)`", page))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
