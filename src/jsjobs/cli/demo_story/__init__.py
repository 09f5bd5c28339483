"""What `jsjobs demo` shows: choice (of files), stage (servers and processes), story (the acts), checks and summary."""
