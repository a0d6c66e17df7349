"""What a run would take, before it is run: corpora, steps, memory and time on a stated machine. Trains nothing."""
