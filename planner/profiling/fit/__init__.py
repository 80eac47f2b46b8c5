"""Fits: from measured tables to what the cost model reads, each with the error it has on what it has not seen."""
