"""Pair scores by key, in this process and in Redis. A cache never fails a request."""
