"""What all pages and tables share."""
