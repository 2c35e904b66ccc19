"""attribatch: Integrated Gradients for whole image data sets. Start at `pipeline.api.Pipeline`."""
