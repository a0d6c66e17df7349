"""Load on the service, on loopback only, bounded in count and time."""
