"""The exact sentences of findings, reasons and refusals, asserted nowhere else."""
