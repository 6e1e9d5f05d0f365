"""What of avault is an extra of the distribution: `avault mcp`, and custodians that most do without."""
