"""One unit of work: claim it, compute its maps, store them. `unit` has the protocol, `explainer` the device side."""
