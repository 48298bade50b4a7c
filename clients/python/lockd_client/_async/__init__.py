"""The client by hand, for asyncio; `_sync` is generated from it by tools/unasync.py."""
