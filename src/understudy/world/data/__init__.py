"""Values and texts as a world reads and writes them: no calls, no state."""
