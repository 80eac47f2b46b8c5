"""Exact search over heterogeneous pipelines, on arrays: knows neither models nor clusters."""
