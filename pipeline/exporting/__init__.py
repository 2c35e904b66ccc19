"""What takes the results of a run to other tools."""
