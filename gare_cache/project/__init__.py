"""A project on disk: paths, features.json, the test ledger, progress output."""
