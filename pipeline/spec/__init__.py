"""Requests and specs: what a run computes, in plain values. Standard library only."""
