"""Everything that survives a restart: the SQL index, the ledger of units, and object storage."""
