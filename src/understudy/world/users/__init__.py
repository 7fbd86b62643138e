"""Users and scenarios, mined from conversations."""
