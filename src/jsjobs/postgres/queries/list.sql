-- A filter that is null falls away when the statement is planned, which is done anew for each call.
select * from job_dlq
where namespace = $1
    and ($2::text is null or app_id = $2)
    and ($3::text is null or type = $3)
    and ($4::text is null or error_reason = $4)
    and ($5::timestamptz is null or dead_at >= $5)
    and ($6::text is null or batch_id = $6)
    and ($7::boolean or replayed_at is null)
    and ($8::boolean or discarded_at is null)
    and ($9::timestamptz is null or (dead_at, id) < ($9, $10::uuid))
order by dead_at desc, id desc
limit $11
