"""`jsjobs dlq`: list, edit, replay and delete dead letters."""
