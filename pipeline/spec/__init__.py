"""Requests for runs and their specs, as plain values. Imports only the standard library."""
