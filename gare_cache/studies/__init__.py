"""Studies: a file that says which runs to compare -> variants, plan, tables, statistics."""
