-- The same filters as in list.sql.
select count(*) from job_dlq
where namespace = $1
    and ($2::text is null or app_id = $2)
    and ($3::text is null or type = $3)
    and ($4::text is null or error_reason = $4)
    and ($5::timestamptz is null or dead_at >= $5)
    and ($6::boolean or replayed_at is null)
    and ($7::boolean or discarded_at is null)
