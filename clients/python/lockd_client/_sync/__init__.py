# Generated from _async/__init__.py by tools/unasync.py: edit that.
"""The client. Written by hand for asyncio, in `_async`; the blocking one in `_sync` is generated from it by tools/unasync.py."""
