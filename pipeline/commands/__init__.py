"""Commands by subject, each module with a `register` that adds its own to the program. `pipeline.cli` has the rest."""
