"""What is read off captured episodes: calls with their results, and which things they name."""
