"""What this engine does not promise, in plain words: said at start, and the same in docs/engine-pysyncobj.md."""

from __future__ import annotations

__all__ = ["warnings_text"]

_WARNINGS = """
Acknowledged writes can be lost. A follower cuts its log at every append, matching or not, so an append that is late or repeated removes
entries that were already acknowledged; if the leader dies then, they are gone (PySyncObj 0.3.17, syncobj.py 991-1004).

A majority can be counted wrongly. Acknowledgements do not say which log they are for, and move a follower's position back (1071-1083). This
engine drops acknowledgements of other terms and of older connections, which makes it rarer and does not end it.

Replicas can differ in what they applied. One that sees an applied entry replaced by another stops and says so; one that does not see it
goes on.

A former leader that comes back far behind may never catch up; with one more replica of three down, writes then hang (985-990, 1267-1337).

A replica that lost contact forces an election when it returns: there is no pre-vote.

Stale leaders are not told that they are stale. One steps down by itself after three election timeouts without answers from a
majority.

A read barrier costs a write: it commits an empty entry, because PySyncObj has no read index.

Membership cannot change while the cluster runs, and there are no learners: the package lets two changes at once through, which can make two
leaders (186, 887-890, 1361-1367), and its membership entries are pickled.

Leadership transfer is best effort: the old leader goes on taking proposals while the new one is elected, and their outcome may stay
unknown.

Receiving a snapshot stops the replica's event loop while the file is verified and the state restored.
"""


def warnings_text() -> list[str]:
    """What the engine does not promise, a sentence or two each: for the start of a node and for the documents."""
    return [" ".join(paragraph.split()) for paragraph in _WARNINGS.strip().split("\n\n")]
