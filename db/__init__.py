"""Durable state: the SQL index, the ledger of units, and object storage."""
