"""Small real things that tests share."""
