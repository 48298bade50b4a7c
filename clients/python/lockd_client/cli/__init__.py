"""`lockctl`: the cluster, its locks and its ledger from the command line."""

from __future__ import annotations

import os

# gRPC's own remarks are not for the user of a command; before gRPC is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from lockd_client.cli.app import app, main

__all__ = ["app", "main"]
