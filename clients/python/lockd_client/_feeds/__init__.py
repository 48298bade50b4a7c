"""Server streams as a watch reads them, for asyncio and for threads: by hand, with the same names."""
