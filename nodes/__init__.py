"""The nodes: thin classes over the engine."""
