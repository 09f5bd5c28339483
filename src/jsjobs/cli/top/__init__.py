"""`jsjobs top`: a live view of a namespace."""
