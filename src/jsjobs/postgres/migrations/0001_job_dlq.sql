create table job_dlq (
    id uuid primary key default gen_random_uuid(),
    namespace text not null,
    app_id text not null default 'default', -- the tenant
    original_job_id text not null,
    type text not null,
    priority text not null,
    entity text,
    batch_id text,
    payload bytea not null, -- byte for byte as it was published
    payload_json jsonb, -- the same for queries, where it is JSON that jsonb can hold
    headers jsonb not null default '[]', -- [[name, value], ...], sanitised
    headers_raw bytea, -- the header block as it came
    error_reason text not null,
    error_history jsonb not null default '[]', -- [{attempt, error, timestamp}, ...]
    attempts int not null default 0,
    created_at timestamptz,
    dead_at timestamptz not null default now(),
    replayed_job_id text, -- set without replayed_at: a replay that has begun and may be published again
    replayed_at timestamptz,
    discarded_at timestamptz,
    unique (namespace, original_job_id)
);

-- The whole history, newest first.
create index job_dlq_history on job_dlq (namespace, dead_at desc, id desc);

-- What people look at by default: the undecided, newest first, however many were decided before.
create index job_dlq_undecided on job_dlq (namespace, dead_at desc, id desc)
where replayed_at is null and discarded_at is null;

create index job_dlq_undecided_tenant on job_dlq (namespace, app_id, dead_at desc, id desc)
where replayed_at is null and discarded_at is null;

create index job_dlq_undecided_type on job_dlq (namespace, type, dead_at desc, id desc)
where replayed_at is null and discarded_at is null;

create index job_dlq_undecided_reason on job_dlq (namespace, error_reason, dead_at desc, id desc)
where replayed_at is null and discarded_at is null;
