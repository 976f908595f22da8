"""Running a workflow without ComfyUI: graph import, checks, execution, command line."""
