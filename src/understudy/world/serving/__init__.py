"""A world for others: MCP servers, looking ahead, staging data."""
