"""Work that cannot be imported: as the entry of a further process, one that never comes to the others."""

raise ImportError("it cannot be imported")
