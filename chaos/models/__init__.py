"""Sequential models: what each object would answer if nothing ever happened at the same time. Written from the contract alone."""
