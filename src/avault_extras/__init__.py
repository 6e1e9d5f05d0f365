"""What of avault is an extra of the distribution: most do without."""
