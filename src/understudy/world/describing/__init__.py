"""What the traffic shows of tools and of the agent, in words and pages."""
