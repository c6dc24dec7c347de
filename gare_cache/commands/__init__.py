"""The commands, one module per topic: parse the options, call a stage, print its lines."""
