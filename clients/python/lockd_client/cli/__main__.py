"""`python -m lockd_client.cli` is `lockctl`."""

from __future__ import annotations

from lockd_client.cli import main

main()
