insert into job_dlq (
    namespace, app_id, original_job_id, type, priority, entity, batch_id, payload, payload_json,
    headers, headers_raw, error_reason, error_history, attempts, created_at, dead_at
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
on conflict (namespace, original_job_id) do nothing
returning id
