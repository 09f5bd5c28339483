-- Where in a trace the job died, as W3C Trace Context writes it: its own header's, else that of its last attempt.
alter table job_dlq add column traceparent text;
