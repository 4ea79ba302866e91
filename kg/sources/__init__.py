"""Sources: one small adapter per data format, each yielding raw tables for `kg.quality`."""
