"""Token-budget micro-batching in front of the engine."""
