"""What is known when a call arrives: the session's state, the traffic's memory, sources."""
