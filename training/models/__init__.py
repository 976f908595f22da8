"""Plain modules, one file per architecture, with the names of the original checkpoints."""
