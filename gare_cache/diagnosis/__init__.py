"""Diagnosis of the increment of a head: measurements, figures, readings and a page."""
