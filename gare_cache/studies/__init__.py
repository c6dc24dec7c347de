"""Studies: run and compare the variants of a head that a study file lists."""
