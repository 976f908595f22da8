"""The client of a running ComfyUI: sends it a workflow over HTTP and WebSocket and follows it to the end. Standard library only."""
