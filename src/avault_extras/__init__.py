"""What of avault needs another package: each file an extra of the distribution."""
