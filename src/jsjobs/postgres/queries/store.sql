insert into job_dlq (
    namespace, app_id, original_job_id, type, priority, entity, batch_id, payload, payload_json,
    headers, headers_raw, error_reason, error_history, attempts, created_at, dead_at, traceparent,
    errors_dropped
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
    $18)
on conflict (namespace, original_job_id) do update set
    -- A row without any error came from a letter that no entry vouched for, perhaps a stranger's: the true one wins.
    app_id = excluded.app_id, type = excluded.type, priority = excluded.priority, entity = excluded.entity,
    batch_id = excluded.batch_id,
    -- What an operator wrote into it stays what will run.
    payload = case when job_dlq.edited_at is null then excluded.payload else job_dlq.payload end,
    payload_json = case when job_dlq.edited_at is null then excluded.payload_json else job_dlq.payload_json end,
    original_payload = case when job_dlq.edited_at is null then null else excluded.payload end,
    headers = excluded.headers, headers_raw = excluded.headers_raw, error_reason = excluded.error_reason,
    error_history = excluded.error_history, errors_dropped = excluded.errors_dropped, attempts = excluded.attempts,
    created_at = excluded.created_at, dead_at = excluded.dead_at, discarded_at = null,
    traceparent = excluded.traceparent
where job_dlq.error_history = '[]' and excluded.error_history <> '[]' and job_dlq.replayed_job_id is null
returning id
