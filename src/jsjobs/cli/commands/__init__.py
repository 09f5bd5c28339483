"""Commands that ask or change one thing and end."""
