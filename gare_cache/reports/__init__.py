"""Results -> tables, pictures and pages."""
