-- The same filters as in list.sql.
select count(*) from job_dlq
where namespace = $1
    and ($2::text is null or app_id = $2)
    and ($3::text is null or type = $3)
    and ($4::text is null or error_reason = $4)
    and ($5::timestamptz is null or dead_at >= $5)
    and ($6::text is null or batch_id = $6)
    and ($7::boolean or replayed_at is null)
    and ($8::boolean or discarded_at is null)
