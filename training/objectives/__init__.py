"""Training objectives over documents; they do not know which builder made them."""
