"""Small services that the world was not made on, each with a scripted agent."""
