"""Generate the protobuf and gRPC stubs: `python tools/protoc.py [--check]`. With --check: fail if the committed ones are not current."""

from __future__ import annotations

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path) -> list[Path]:
    """Generate all stubs below `out`; returns their paths relative to it."""
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    services = [p for p in protos if "\nservice " in p.read_text()]
    include = [f"-I{ROOT / 'proto'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}", f"-I{_googleapis()}"]
    # protoc finds the mypy plugins on PATH: beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for args in (
        [f"--python_out={out}", f"--mypy_out=quiet:{out}", *map(str, protos)],
        [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *map(str, services)],
    ):
        if protoc.main(["protoc", *include, *args]) != 0:
            sys.exit("protoc failed")
    stems = [p.relative_to(ROOT / "proto").with_suffix("") for p in protos]
    suffixes = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    files = [stem.with_name(stem.name + suffix) for stem in stems for suffix in suffixes]
    return [f for f in files if (out / f).exists()]


def _googleapis() -> Path:
    """The directory in which googleapis-common-protos installs its .proto files."""
    return Path(status_pb2.__file__).parent.parent.parent


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        print(f"generated {len(generate(ROOT))} files")
        return
    with tempfile.TemporaryDirectory() as scratch:
        stale = [
            p for p in generate(Path(scratch)) if not (ROOT / p).exists() or not filecmp.cmp(Path(scratch) / p, ROOT / p, shallow=False)
        ]
    if stale:
        sys.exit("stale stubs, run `make proto`: " + ", ".join(map(str, stale)))
    print("stubs are current")


if __name__ == "__main__":
    main()
