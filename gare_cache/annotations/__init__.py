"""Annotation files as published -> one record form."""
