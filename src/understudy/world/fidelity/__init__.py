"""How faithful a world is, on calls that it has not seen."""
