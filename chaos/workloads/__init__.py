"""What clients do, and how what they saw is judged. `CATALOGUE` names them all."""
