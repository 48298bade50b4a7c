"""What breaks things: each nemesis strikes, waits, and mends what it broke. `CATALOGUE` names them all."""
