"""From annotation records to the checked tables of videos and captions with splits and files."""
