"""Path and sampling rule to upright RGB frames at known times."""
