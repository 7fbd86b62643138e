"""Worlds learned from traffic: environments in which an agent rehearses."""
