"""The page a run leaves behind."""
