"""A training as it can be watched: what its node shows while it runs, and what may be asked of it. Knows nothing of ComfyUI."""
