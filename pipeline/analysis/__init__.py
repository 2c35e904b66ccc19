"""Results over a whole run or two: audit, evaluation, comparison, drift."""
