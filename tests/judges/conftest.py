"""Hypothesis without deadlines: a busy machine is no failing property."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
