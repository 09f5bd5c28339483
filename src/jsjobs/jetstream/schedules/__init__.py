"""Messages that the server publishes when they are due: delayed and periodic jobs."""
