"""Workers: take deliveries, run handlers, settle jobs."""
