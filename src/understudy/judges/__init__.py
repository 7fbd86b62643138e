"""Judges turn groups of episodes into feedback: checks, RULER, reward models."""
