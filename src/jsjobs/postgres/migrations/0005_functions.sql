-- Nobody but the owner has a right on a table: all others act by the functions of `jsjobs_api`, which ask who has logged
-- in. So they name no table, which is what locks, statistics of plans and foreign rows would begin with. Everybody may
-- call the functions: rights of a role are what each of its members may drop (`drop owned by`).

create schema jsjobs_data;
create schema jsjobs_api;
grant usage on schema jsjobs_api to public;
revoke all on job_dlq from public;
alter table job_dlq set schema jsjobs_data;
grant select on jsjobs_migrations to public;

create table jsjobs_data.tenants (
    user_name name not null, -- the user that logged in; nothing that a session can set decides whose letters it sees
    namespace text not null,
    app_id text not null, -- the tenant, as in job_dlq
    primary key (user_name, namespace, app_id)
);

-- A tenant's letters are found without a look at others'.
create index job_dlq_tenant on jsjobs_data.job_dlq (namespace, app_id, dead_at desc, id desc);

-- What every reader can hold: a row that it cannot would keep it from all others.

create function jsjobs_data.are_headers(given jsonb) returns boolean
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
declare
    pair jsonb;
begin
    if jsonb_typeof(given) <> 'array' then
        return false;
    end if;
    for pair in select jsonb_array_elements(given) loop
        if jsonb_typeof(pair) <> 'array' then
            return false;
        end if;
        if jsonb_array_length(pair) <> 2 or jsonb_typeof(pair -> 0) <> 'string' or jsonb_typeof(pair -> 1) <> 'string' then
            return false;
        end if;
    end loop;
    return true;
end $$;

create function jsjobs_data.are_errors(given jsonb) returns boolean
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
declare
    item jsonb;
begin
    if jsonb_typeof(given) <> 'array' then
        return false;
    end if;
    for item in select jsonb_array_elements(given) loop
        if jsonb_typeof(item) <> 'object' then
            return false;
        end if;
        if not item ?& array['attempt', 'error', 'timestamp'] or item - array['attempt', 'error', 'timestamp'] <> '{}'
            or jsonb_typeof(item -> 'error') <> 'string' or jsonb_typeof(item -> 'timestamp') <> 'string'
            or jsonb_typeof(item -> 'attempt') <> 'number' or item ->> 'attempt' !~ '^[0-9]{1,10}$'
        then
            return false;
        end if;
    end loop;
    return true;
end $$;

-- As Python's rules for a name: printable, and no space at its ends.
create function jsjobs_data.unprintable() returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select '[\u0001-\u001f\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ue000-\uf8ff\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe-\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U00040000-\U000e00ff\U000e01f0-\U0010ffff]'
$$;

create function jsjobs_data.is_name(given text) returns boolean
language sql immutable strict set search_path = pg_catalog, pg_temp
as $$
    select given <> '' and given = btrim(given, ' ') and given !~ jsjobs_data.unprintable()
$$;

create function jsjobs_data.name_of(given text, most int) returns text
language sql immutable strict set search_path = pg_catalog, pg_temp
as $$
    select coalesce(nullif(btrim(left(regexp_replace(given, jsjobs_data.unprintable(), U&'\FFFD', 'g'), most), ' '), ''), '?')
$$;

update jsjobs_data.job_dlq set
    app_id = jsjobs_data.name_of(app_id, 255), entity = jsjobs_data.name_of(entity, 256),
    priority = case when priority in ('critical', 'high', 'normal', 'low') then priority else 'normal' end,
    dead_at = least(greatest(dead_at, '2000-01-01 00:00:00Z'), now() + interval '1 day'),
    created_at = least(greatest(created_at, '2000-01-01 00:00:00Z'), '2999-12-31 23:59:59Z')
where not jsjobs_data.is_name(app_id) or not jsjobs_data.is_name(entity) or length(app_id) > 255 or length(entity) > 256
    or priority not in ('critical', 'high', 'normal', 'low')
    or dead_at not between '2000-01-01 00:00:00Z' and now() + interval '1 day'
    or created_at not between '2000-01-01 00:00:00Z' and '2999-12-31 23:59:59Z';

update jsjobs_data.job_dlq set replayed_job_id = null, replayed_at = null
where replayed_job_id !~ ('^replay-[1-9][0-9]{0,8}-' || id::text || '$') or replayed_job_id is null and replayed_at is not null;

-- How often it was claimed: no number of a replay is given twice, also where a claim was taken back.
alter table jsjobs_data.job_dlq add column replays int not null default 0;
update jsjobs_data.job_dlq set replays = split_part(replayed_job_id, '-', 2)::int where replayed_job_id is not null;

alter table jsjobs_data.job_dlq
add constraint job_dlq_replayed_job_id check (replayed_job_id ~ ('^replay-[1-9][0-9]{0,8}-' || id::text || '$')),
add constraint job_dlq_replayed_at check (replayed_at is null or replayed_job_id is not null),
-- As much as a server of NATS carries out of the box, and more than a queue takes.
add constraint job_dlq_size check (
    octet_length(payload) <= 1048576 and octet_length(original_payload) <= 1048576
    and octet_length(headers_raw) <= 1048576 and octet_length(headers::text) <= 1048576
    and octet_length(error_history::text) <= 2097152
),
add constraint job_dlq_texts check (
    length(app_id) <= 255 and length(original_job_id) <= 255 and length(type) <= 255 and length(error_reason) <= 255
    and length(batch_id) <= 255 and length(traceparent) <= 255 and length(entity) <= 256
),
-- What no queue would take again, or take as another tenant's.
add constraint job_dlq_names check (
    jsjobs_data.is_name(app_id) and jsjobs_data.is_name(entity) and priority in ('critical', 'high', 'normal', 'low')
),
add constraint job_dlq_headers check (jsjobs_data.are_headers(headers)),
add constraint job_dlq_error_history check (jsjobs_data.are_errors(error_history)),
add constraint job_dlq_counts check (attempts >= 0 and errors_dropped >= 0),
-- Within what every reader holds: the first and the last of Python's years are its driver's infinities.
add constraint job_dlq_times check (
    dead_at between '2000-01-01 00:00:00Z' and '2999-12-31 23:59:59Z'
    and created_at between '2000-01-01 00:00:00Z' and '2999-12-31 23:59:59Z'
);

-- Who asks. In a function of the owner's `current_user` is the owner, and `session_user` whoever logged in.

create function jsjobs_data.is_one_of(variadic roles text[]) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select pg_has_role(session_user, current_user, 'member')
        or exists (select from pg_roles where rolname = any (roles) and pg_has_role(session_user, oid, 'member'))
$$;

-- Whose letters the user may see or decide on: null means all, a tenant's are named.
create function jsjobs_data.reach(in_namespace text, variadic roles text[]) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if jsjobs_data.is_one_of(variadic roles) then
        return null;
    end if;
    if not jsjobs_data.is_one_of('jsjobs_tenant') then
        raise insufficient_privilege
            using message = format('user %s is no member of %s', session_user, array_to_string(roles, ' or '));
    end if;
    return array(
        select allowed.app_id from jsjobs_data.tenants as allowed
        where allowed.user_name = session_user and allowed.namespace = in_namespace
    );
end $$;

create function jsjobs_api.rights() returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select array_remove(array[
        case when jsjobs_data.is_one_of('jsjobs_router') then 'store' end,
        case when jsjobs_data.is_one_of('jsjobs_operator', 'jsjobs_viewer', 'jsjobs_tenant') then 'read' end,
        case when jsjobs_data.is_one_of('jsjobs_operator', 'jsjobs_tenant') then 'decide' end
    ], null)
$$;

-- The body as a document, or null where it is none that jsonb and its readers hold: 1e131071 is 8 characters in a body,
-- and so many in each answer.
create function jsjobs_data.document(payload bytea) returns jsonb
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
declare
    made jsonb;
begin
    made := convert_from(payload, 'UTF8')::jsonb;
    return case when length(made::text) <= greatest(20000, 8 * octet_length(payload)) then made end;
exception when data_exception or program_limit_exceeded then
    return null;
end $$;

-- The functions that everybody may call. What a session sets to be told how its statements are planned
-- (`client_min_messages`) does not count in them: estimates come from all letters.

-- Of routers.

create function jsjobs_api.store(
    in_namespace text, app_id text, original_job_id text, type text, priority text, entity text, batch_id text,
    payload bytea, is_document boolean, headers jsonb, headers_raw bytea, error_reason text, error_history jsonb,
    attempts int, created_at timestamptz, dead_at timestamptz, traceparent text, errors_dropped int
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    stored uuid;
begin
    if not jsjobs_data.is_one_of('jsjobs_router') then
        raise insufficient_privilege using message = format('user %s is no member of jsjobs_router', session_user);
    end if;
    insert into jsjobs_data.job_dlq as letter (
        namespace, app_id, original_job_id, type, priority, entity, batch_id, payload, payload_json, headers,
        headers_raw, error_reason, error_history, attempts, created_at, dead_at, traceparent, errors_dropped
    ) values (
        $1, $2, $3, $4, $5, $6, $7, $8, case when $9 then jsjobs_data.document($8) end, $10,
        $11, $12, $13, $14, $15, least($16, now() + interval '1 day'), $17, $18
    )
    on conflict (namespace, original_job_id) do update set
        -- A row without any error came from a letter that no entry vouched for, perhaps a stranger's: the true one wins.
        app_id = excluded.app_id, type = excluded.type, priority = excluded.priority, entity = excluded.entity,
        batch_id = excluded.batch_id,
        -- What an operator wrote into it stays what will run; not what a tenant wrote into another's.
        payload = case
            when letter.edited_at is null or (letter.app_id, letter.type) <> (excluded.app_id, excluded.type) then excluded.payload
            else letter.payload
        end,
        payload_json = case
            when letter.edited_at is null or (letter.app_id, letter.type) <> (excluded.app_id, excluded.type) then excluded.payload_json
            else letter.payload_json
        end,
        original_payload = case
            when letter.edited_at is null or (letter.app_id, letter.type) <> (excluded.app_id, excluded.type) then null
            else excluded.payload
        end,
        edited_at = case when (letter.app_id, letter.type) <> (excluded.app_id, excluded.type) then null else letter.edited_at end,
        replayed_job_id = null, replayed_at = null,
        headers = excluded.headers, headers_raw = excluded.headers_raw, error_reason = excluded.error_reason,
        error_history = excluded.error_history, errors_dropped = excluded.errors_dropped, attempts = excluded.attempts,
        created_at = excluded.created_at, dead_at = excluded.dead_at, discarded_at = null,
        traceparent = excluded.traceparent
    where letter.error_history = '[]' and excluded.error_history <> '[]'
        -- A replay stands for the true letter where it ran the same job, and only there.
        and (
            letter.replayed_job_id is null
            or (letter.app_id, letter.type, coalesce(letter.original_payload, letter.payload))
                <> (excluded.app_id, excluded.type, excluded.payload)
        )
    returning letter.id into stored;
    return stored;
end $$;

-- The letter that stands under a job's id, where what was to be stored is another job's: its tenant, type or time differ.
-- What no entry told is no difference.
create function jsjobs_api.met(
    in_namespace text, job_id text, of_tenant text, of_type text, of_time timestamptz
) returns table (id uuid, app_id text, type text, created_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '500ms'
as $$
#variable_conflict use_column
begin
    if not jsjobs_data.is_one_of('jsjobs_router') then
        raise insufficient_privilege using message = format('user %s is no member of jsjobs_router', session_user);
    end if;
    return query select letter.id, letter.app_id, letter.type, letter.created_at from jsjobs_data.job_dlq as letter
    where letter.namespace = in_namespace and letter.original_job_id = job_id
        and (letter.app_id <> of_tenant or letter.type <> nullif(of_type, '') or letter.created_at <> of_time);
end $$;

-- Of readers.

-- A row of job_dlq, as readers get it. The table's own type would have each of them wait for a lock on the table before
-- the function's `lock_timeout` counts.
create type jsjobs_data.letter as (
    id uuid, namespace text, app_id text, original_job_id text, type text, priority text, entity text, batch_id text,
    payload bytea, payload_json jsonb, headers jsonb, headers_raw bytea, error_reason text, error_history jsonb,
    attempts int, created_at timestamptz, dead_at timestamptz, replayed_job_id text, replayed_at timestamptz,
    discarded_at timestamptz, traceparent text, original_payload bytea, edited_at timestamptz, errors_dropped int, replays int
);

-- The letters that filters let through; a filter that is null lets all through. A tenant's own are taken first, and then
-- filtered: what it asks for decides on no reading of others', which the server's statistics would tell it of.
create function jsjobs_data.chosen(
    in_namespace text, reach text[], of_tenant text, of_type text, of_reason text, since timestamptz, of_batch text,
    with_replayed boolean, with_discarded boolean, after_time timestamptz, after_id uuid, at_most int
) returns table (id uuid, priority text, entity text, dead_at timestamptz)
language plpgsql stable rows 50 set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
    if reach is null then
        return query select letter.id, letter.priority, letter.entity, letter.dead_at from jsjobs_data.job_dlq as letter
        where letter.namespace = in_namespace
            and (of_tenant is null or letter.app_id = of_tenant) and (of_type is null or letter.type = of_type)
            and (of_reason is null or letter.error_reason = of_reason) and (since is null or letter.dead_at >= since)
            and (of_batch is null or letter.batch_id = of_batch)
            and (with_replayed or letter.replayed_at is null) and (with_discarded or letter.discarded_at is null)
            and (after_time is null or (letter.dead_at, letter.id) < (after_time, after_id))
        order by letter.dead_at desc, letter.id desc limit at_most;
    else
        return query select own.id, own.priority, own.entity, own.dead_at
        from unnest(reach) as tenant (name), lateral (
            select letter.* from jsjobs_data.job_dlq as letter
            where letter.namespace = in_namespace and letter.app_id = tenant.name
                and (with_replayed or letter.replayed_at is null) and (with_discarded or letter.discarded_at is null)
            offset 0 -- nothing from below is asked here
        ) as own
        where (of_tenant is null or own.app_id = of_tenant) and (of_type is null or own.type = of_type)
            and (of_reason is null or own.error_reason = of_reason) and (since is null or own.dead_at >= since)
            and (of_batch is null or own.batch_id = of_batch)
            and (after_time is null or (own.dead_at, own.id) < (after_time, after_id))
        order by own.dead_at desc, own.id desc limit at_most;
    end if;
end $$;

create function jsjobs_api.letters(
    in_namespace text, of_tenant text, of_type text, of_reason text, since timestamptz, of_batch text,
    with_replayed boolean, with_discarded boolean, after_time timestamptz, after_id uuid, at_most int
) returns setof jsjobs_data.letter
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    return query select letter.* from jsjobs_data.chosen(
        in_namespace, reach,
        of_tenant, of_type, of_reason, since, of_batch, with_replayed, with_discarded, after_time, after_id, at_most
    ) as found join jsjobs_data.job_dlq as letter on letter.id = found.id
    order by letter.dead_at desc, letter.id desc;
end $$;

-- As `letters`, for lists: no body is read.
create function jsjobs_api.headings(
    in_namespace text, of_tenant text, of_type text, of_reason text, since timestamptz, of_batch text,
    with_replayed boolean, with_discarded boolean, at_most int
) returns table (
    id uuid, app_id text, type text, error_reason text, last_error text, dead_at timestamptz,
    replayed_at timestamptz, replayed_job_id text, discarded_at timestamptz
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    return query select letter.id, letter.app_id, letter.type, letter.error_reason,
        left(coalesce(letter.error_history -> -1 ->> 'error', ''), 500),
        letter.dead_at, letter.replayed_at, letter.replayed_job_id, letter.discarded_at
    from jsjobs_data.chosen(
        in_namespace, reach,
        of_tenant, of_type, of_reason, since, of_batch, with_replayed, with_discarded, null, null, at_most
    ) as found join jsjobs_data.job_dlq as letter on letter.id = found.id
    order by letter.dead_at desc, letter.id desc;
end $$;

create function jsjobs_api.count(
    in_namespace text, of_tenant text, of_type text, of_reason text, since timestamptz, of_batch text,
    with_replayed boolean, with_discarded boolean
) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s' set plan_cache_mode = force_custom_plan
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    if reach is null then -- the same filters as in chosen; there are many to count, and they need no order
        return count(*) from jsjobs_data.job_dlq as letter
        where letter.namespace = in_namespace
            and (of_tenant is null or letter.app_id = of_tenant) and (of_type is null or letter.type = of_type)
            and (of_reason is null or letter.error_reason = of_reason) and (since is null or letter.dead_at >= since)
            and (of_batch is null or letter.batch_id = of_batch)
            and (with_replayed or letter.replayed_at is null) and (with_discarded or letter.discarded_at is null);
    end if;
    return count(*) from jsjobs_data.chosen(
        in_namespace, reach,
        of_tenant, of_type, of_reason, since, of_batch, with_replayed, with_discarded, null, null, null
    );
end $$;

-- The newest undecided letters, so many.
create function jsjobs_api.undecided(
    in_namespace text, of_tenant text, of_type text, of_reason text, since timestamptz, of_batch text, at_most int
) returns table (id uuid, priority text, entity text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    return query select found.id, found.priority, found.entity from jsjobs_data.chosen(
        in_namespace, reach,
        of_tenant, of_type, of_reason, since, of_batch, false, false, null, null, at_most
    ) as found order by found.dead_at desc, found.id desc;
end $$;

create function jsjobs_api.letter(in_namespace text, letter_id uuid) returns setof jsjobs_data.letter
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    return query select letter.* from jsjobs_data.job_dlq as letter
    where letter.id = letter_id and letter.namespace = in_namespace and (reach is null or letter.app_id = any (reach));
end $$;

-- Three rows tell as well as all of them that what was asked is ambiguous.
create function jsjobs_api.find(in_namespace text, job_id text, first_id uuid, last_id uuid) returns setof jsjobs_data.letter
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator', 'jsjobs_viewer');
begin
    if reach is null then
        return query select letter.* from jsjobs_data.job_dlq as letter
        where letter.namespace = in_namespace
            and (letter.original_job_id = job_id or letter.id between first_id and last_id)
        limit 3;
    else
        return query select own.* from unnest(reach) as tenant (name), lateral (
            select letter.* from jsjobs_data.job_dlq as letter
            where letter.namespace = in_namespace and letter.app_id = tenant.name
            offset 0 -- as in chosen
        ) as own
        where own.original_job_id = job_id or own.id between first_id and last_id
        limit 3;
    end if;
end $$;

-- The highest sequence of each priority's stream among the ids of dead jobs. A stream begins at the clock, in
-- microseconds: 2^52 is the year 2112. What is beyond is forged, and would leave a stream few numbers up to 2^53, where
-- many clients lose count; below it, whatever a clock that was wrong has given, there are as many again.
create function jsjobs_api.highest_sequences(in_namespace text) returns table (priority text, sequence bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
begin
    if not jsjobs_data.is_one_of('jsjobs_operator', 'jsjobs_viewer', 'jsjobs_router') then
        raise insufficient_privilege
            using message = format('user %s is no member of jsjobs_operator, jsjobs_viewer or jsjobs_router', session_user);
    end if;
    return query select plain.words[1], max(plain.words[2]::bigint) from (
        select string_to_array(letter.original_job_id, '-') as words from jsjobs_data.job_dlq as letter
        where letter.namespace = in_namespace
            and letter.original_job_id ~ '^(critical|high|normal|low)-[1-9][0-9]{0,15}$'
        offset 0 -- filtered before the numbers are read
    ) as plain
    where plain.words[2]::bigint <= 4503599627370496
    group by 1;
end $$;

-- Of those who decide. Each waits for another's decision for so many milliseconds, at most.

create function jsjobs_data.locked(in_namespace text, letter_id uuid, patience int) returns jsjobs_data.job_dlq
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    reach constant text[] := jsjobs_data.reach(in_namespace, 'jsjobs_operator');
    letter jsjobs_data.job_dlq;
begin
    perform set_config('lock_timeout', greatest(patience, 1)::text, true);
    select each.* into letter from jsjobs_data.job_dlq as each
    where each.id = letter_id and each.namespace = in_namespace and (reach is null or each.app_id = any (reach))
    for update;
    return letter;
end $$;

-- Whose transaction has changed a letter and goes on: no other holds its row.
create function jsjobs_api.holders(in_namespace text, letter_id uuid, job_id text) returns setof text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '500ms'
as $$
declare
    reach constant text[] := case
        when not jsjobs_data.is_one_of('jsjobs_router') then jsjobs_data.reach(in_namespace, 'jsjobs_operator')
    end;
begin
    return query select format('user %s (pid %s)', session.usename, session.pid)
    from jsjobs_data.job_dlq as letter
    join pg_locks as held
        on held.locktype = 'transactionid' and held.transactionid = letter.xmax and held.granted and held.mode = 'ExclusiveLock'
    join pg_stat_activity as session on session.pid = held.pid
    where letter.namespace = in_namespace and (letter.id = letter_id or letter.original_job_id = job_id)
        and (reach is null or letter.app_id = any (reach));
end $$;

-- Whether a replay's job can be published; else a claim could neither be finished nor be given up. It is a little
-- stricter than the queues: JSON has more characters than the same headers on the wire, and 320 bytes are the replay's.
create function jsjobs_data.is_publishable(letter jsjobs_data.job_dlq, body bytea) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select letter.type collate "C" ~ '^[!-)+-=?-~]+$' and position('..' in '.' || letter.type || '.') = 0
        -- As a subject's token: all but these becomes %XX.
        and coalesce(
            octet_length(letter.entity) + 2 * octet_length(regexp_replace(letter.entity, '[A-Za-z0-9_-]', '', 'g')) <= 1024,
            true
        )
        and head.size + 320 <= 60000 and head.size + 320 + octet_length(body) <= 913408
    from (
        select octet_length(letter.headers::text) + octet_length(letter.app_id)
            + coalesce(octet_length(letter.entity), 0) as size
    ) as head
$$;

create function jsjobs_api.claim_replay(in_namespace text, letter_id uuid, is_forced boolean, patience int)
returns table (outcome text, job_id text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    letter constant jsjobs_data.job_dlq := jsjobs_data.locked(in_namespace, letter_id, patience);
    claim constant text := format('replay-%s-%s', letter.replays + 1, letter_id);
begin
    if letter.id is null then
        return query select 'unknown', null::text;
    elsif letter.replayed_job_id is not null and letter.replayed_at is null then
        return query select 'unfinished', letter.replayed_job_id;
    elsif letter.replayed_at is not null and not is_forced then
        return query select 'replayed', letter.replayed_job_id;
    elsif letter.discarded_at is not null and not is_forced then
        return query select 'discarded', null::text;
    elsif not jsjobs_data.is_publishable(letter, letter.payload) then
        return query select 'unpublishable', null::text;
    else
        update jsjobs_data.job_dlq as each set
            replayed_job_id = claim, replayed_at = null, discarded_at = null, replays = each.replays + 1
        where each.id = letter_id;
        return query select 'done', claim;
    end if;
end $$;

create function jsjobs_api.mark_replayed(in_namespace text, letter_id uuid, claim text, patience int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    letter constant jsjobs_data.job_dlq := jsjobs_data.locked(in_namespace, letter_id, patience);
begin
    if letter.replayed_job_id = claim and letter.replayed_at is null then
        update jsjobs_data.job_dlq as each set replayed_at = now() where each.id = letter_id;
    end if;
end $$;

create function jsjobs_api.discard(in_namespace text, letter_id uuid, patience int)
returns table (outcome text, job_id text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    letter constant jsjobs_data.job_dlq := jsjobs_data.locked(in_namespace, letter_id, patience);
begin
    if letter.id is null then
        return query select 'unknown', null::text;
    elsif letter.replayed_job_id is not null and letter.replayed_at is null
        and jsjobs_data.is_publishable(letter, letter.payload) -- else nothing could ever finish the replay
    then
        return query select 'unfinished', letter.replayed_job_id;
    elsif letter.discarded_at is not null then
        return query select 'discarded', null::text;
    else
        update jsjobs_data.job_dlq as each set
            discarded_at = now(), replayed_job_id = case when letter.replayed_at is not null then each.replayed_job_id end
        where each.id = letter_id;
        return query select 'done', null::text;
    end if;
end $$;

-- Puts another body in the place of the one that will run; the published one is kept.
create function jsjobs_api.edit(
    in_namespace text, letter_id uuid, body bytea, is_document boolean, is_forced boolean, instead_of bytea, patience int
) returns table (outcome text, job_id text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
declare
    letter constant jsjobs_data.job_dlq := jsjobs_data.locked(in_namespace, letter_id, patience);
begin
    if letter.id is null then
        return query select 'unknown', null::text;
    elsif letter.replayed_job_id is not null and letter.replayed_at is null then
        return query select 'unfinished', letter.replayed_job_id;
    elsif letter.replayed_at is not null and not is_forced then
        return query select 'replayed', letter.replayed_job_id;
    elsif letter.discarded_at is not null and not is_forced then
        return query select 'discarded', null::text;
    elsif letter.payload <> instead_of then
        return query select 'changed', null::text;
    elsif body is null or not jsjobs_data.is_publishable(letter, body) then
        return query select 'unpublishable', null::text;
    else
        update jsjobs_data.job_dlq as each set
            original_payload = coalesce(each.original_payload, each.payload), edited_at = now(), payload = body,
            payload_json = case when is_document then jsjobs_data.document(body) end
        where each.id = letter_id;
        return query select 'done', null::text;
    end if;
end $$;
