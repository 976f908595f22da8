"""The training engine: models, data, objective, loop, checkpoints, formats, sampling. Imports no ComfyUI, ever."""

__version__ = "0.1.0"
