"""`jsjobs demo`: a story told on real files and real servers."""
