"""Faults on a real cluster, and a judge that knows nothing of its code: `python -m chaos`.

Sees the generated stubs and the SDK only. A run writes one history (operations, faults, leaders); the checkers judge the history alone,
so that a saved one can be judged again.
"""
