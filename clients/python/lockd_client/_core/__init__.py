"""What the client decides, without I/O, clocks, randomness or threads: time and jitter are arguments."""
