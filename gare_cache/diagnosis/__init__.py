"""What the increment of a head does: figures, readings and a page."""
