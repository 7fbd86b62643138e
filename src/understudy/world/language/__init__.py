"""A language model in the gaps of a world."""
