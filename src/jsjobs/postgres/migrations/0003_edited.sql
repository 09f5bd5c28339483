-- What an operator changed before a replay: `payload` is what will run, the body as it was published is kept here.
alter table job_dlq add column original_payload bytea, add column edited_at timestamptz;
