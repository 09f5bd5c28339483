"""Dead jobs: their rows in Postgres, and their replay."""
