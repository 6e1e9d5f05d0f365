"""What of avault needs another package: `avault mcp`, an extra of the distribution."""
