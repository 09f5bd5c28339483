"""Jobs under faults: a harness that hurts real servers and processes, and a checker of what was recorded meanwhile."""
