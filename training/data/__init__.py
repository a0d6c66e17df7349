"""Reading and checking a data set folder."""
