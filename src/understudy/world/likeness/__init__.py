"""Whole conversations in a world beside real ones."""
