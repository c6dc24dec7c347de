"""How the small CLIP of the demo was made; not part of the installed package."""
