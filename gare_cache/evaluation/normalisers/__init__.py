"""Test-time normalisers of similarities."""
