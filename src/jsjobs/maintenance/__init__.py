"""What routers do: store dead letters, sweep, restore consumers, clean up schedules."""
