"""The checks of `jsjobs doctor`, by what they look at."""
