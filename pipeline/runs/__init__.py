"""The life of a run: planned, submitted, estimated, repaired, removed, and read again."""
