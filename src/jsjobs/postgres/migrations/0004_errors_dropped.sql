-- Failures that are not in `error_history`: there was no room for their texts.
alter table job_dlq add column errors_dropped int not null default 0;
