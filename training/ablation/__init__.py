"""What each module adds: recipes with one part left out, over seeds and label shares, and how they compare."""
