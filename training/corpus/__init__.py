"""The three corpus builders of continual pre-training, alike from outside: documents and named drops."""
