"""A second world and impossible tasks: what success in a world must withstand."""
