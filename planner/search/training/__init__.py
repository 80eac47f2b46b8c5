"""Exact search over heterogeneous pipelines: on arrays, and what turns jobs into such arrays.

`stage_graph` is the problem, `cells` the search, `lagrange` its bounds, `labels` its exact part, `transport` the
division of mixed stages; `sailor` and `metis_referee` pose the problem at published prices.
"""
