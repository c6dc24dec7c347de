"""Search: a shortlist by one vector a video, exact scores, and the moment in the video."""
