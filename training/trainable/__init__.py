"""What is trained: its initial weights, and the way back from a state to a file's layout."""
