"""A project on disk: paths, features, ledger, progress."""
