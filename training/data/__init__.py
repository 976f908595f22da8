"""Pictures, captions and hints: from folders to encoded shards on disk to batches."""
