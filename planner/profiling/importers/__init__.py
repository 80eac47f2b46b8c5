"""Measurements of other tools, read into the common layout."""
