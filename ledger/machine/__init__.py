"""The ledger's pure machine: accounts, transfers and their rules, with no clock and no I/O.

Read `state` for the whole, `decide` for every refusal in its documented order, `evolve` for what an accepted event does.
"""
