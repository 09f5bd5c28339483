"""Reading a whole namespace: what waits, what runs."""
