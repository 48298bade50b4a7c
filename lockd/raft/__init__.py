"""The replicated log.

gRPC's own handlers around fork crash the forked child that writes a snapshot (`lockd.raft.engine_snapshots`), and it reads whether to
install them when it is first imported. So they are switched off here, before anything in this package imports it.
"""

from __future__ import annotations

import os
import sys

_SETTING = "GRPC_ENABLE_FORK_SUPPORT"

if "grpc" not in sys.modules:
    os.environ.setdefault(_SETTING, "false")

FORK_IS_SAFE = os.environ.get(_SETTING, "true").lower() in ("0", "false", "no")
"""Whether this process may fork for a snapshot; if gRPC was imported before, with its handlers, the loop must stand still instead."""
