"""The steps of the pipeline: read inputs, call the library, write outputs."""
