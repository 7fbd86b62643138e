"""What a call that goes well answers and changes."""
