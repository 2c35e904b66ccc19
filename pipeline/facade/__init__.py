"""The parts of the API, one upon the other: `opened`, `answering`, `running`; `pipeline.api.Pipeline` is all of it."""
