"""What a caller asks for: submit, validate, cancel, reschedule, schedule, see the queues."""
