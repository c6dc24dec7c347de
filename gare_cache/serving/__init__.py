"""Search in a browser: a server with one page and a JSON API on the project's own machine."""
