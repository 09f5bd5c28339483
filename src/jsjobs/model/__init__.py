"""The data and rules of jobs: payloads, status, errors, retries, timetables. No I/O."""
