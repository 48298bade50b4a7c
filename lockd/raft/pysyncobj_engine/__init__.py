"""The second log engine: the published PySyncObj behind `lockd.raft.port`, the control of our tests.

Why there are two is told in docs/adr/0003-two-log-engines.md.
"""

from lockd.raft.pysyncobj_engine.engine import PySyncObjEngine
from lockd.raft.pysyncobj_engine.promises import warnings_text
from lockd.raft.pysyncobj_engine.settings import Settings, Tls

__all__ = ["PySyncObjEngine", "Settings", "Tls", "warnings_text"]
