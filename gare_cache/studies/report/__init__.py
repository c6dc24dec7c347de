"""The report of a study: one HTML page, Markdown and LaTeX."""
