"""Following jobs: their status, end, progress and batches."""
