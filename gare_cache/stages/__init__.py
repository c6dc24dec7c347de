"""One module per command: read inputs, call the library, write outputs."""
