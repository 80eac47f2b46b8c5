"""One file per program and solver; each imports its solver only when used."""
