"""Other people's measurements, brought into the common layout of `planner.profiling.tables`."""

from __future__ import annotations

from planner.profiling.importers.base import Imported, Importer, Source, device_named
from planner.profiling.importers.registry import SOURCES, import_tables, source_named

__all__ = ["SOURCES", "Imported", "Importer", "Source", "device_named", "import_tables", "source_named"]
