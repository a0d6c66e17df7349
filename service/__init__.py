"""The HTTP service that scores (query, item) pairs with a bundle. Runs without torch and transformers."""
