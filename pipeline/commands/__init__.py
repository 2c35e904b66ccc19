"""Groups of commands, each a typer app that `pipeline.cli` adds, and the options that commands share."""
