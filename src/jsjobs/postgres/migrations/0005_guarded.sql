-- What others act on is checked here, whoever has the right to write it: an operator's replay publishes a job under the
-- id in `replayed_job_id`, and loads the body.

update job_dlq set replayed_job_id = null, replayed_at = null
where replayed_job_id !~ ('^replay-[1-9][0-9]{0,8}-' || id::text || '$') or replayed_job_id is null and replayed_at is not null;

alter table job_dlq
add constraint job_dlq_replayed_job_id check (replayed_job_id ~ ('^replay-[1-9][0-9]{0,8}-' || id::text || '$')),
-- No server of NATS carries more, however it is configured.
add constraint job_dlq_size check (
    octet_length(payload) <= 67108864 and octet_length(original_payload) <= 67108864
    and octet_length(headers_raw) <= 67108864
);

-- A letter is claimed for its next replay, then that is finished; or it is discarded. When is the server's to say.
create function jsjobs_letter_decided() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    is_claim constant boolean := new.replayed_job_id is distinct from old.replayed_job_id;
    is_unfinished constant boolean := old.replayed_job_id is not null and old.replayed_at is null;
    next_number constant int := coalesce(split_part(old.replayed_job_id, '-', 2)::int, 0) + 1;
    is_vouched_for constant boolean := old.error_history = '[]' and new.error_history <> '[]';
begin
    if is_claim then
        if is_unfinished or new.replayed_at is not null or new.discarded_at is not null
            or new.replayed_job_id is distinct from format('replay-%s-%s', next_number, old.id)
        then
            raise check_violation using message = 'replayed_job_id can only become that of the next replay of this letter';
        end if;
        return new;
    end if;
    if new.replayed_at is distinct from old.replayed_at then
        if not is_unfinished then
            raise check_violation using message = 'replayed_at can only be set to finish a replay that has begun';
        end if;
        new.replayed_at := now();
    end if;
    if new.discarded_at is distinct from old.discarded_at then
        if is_unfinished or (new.discarded_at is null and not is_vouched_for) then
            raise check_violation using message = 'discarded_at can only be set, and of no letter that is being replayed';
        end if;
        new.discarded_at := case when is_vouched_for then null else coalesce(old.discarded_at, now()) end;
    end if;
    return new;
end $$;

create trigger jsjobs_letter_decided before update of replayed_job_id, replayed_at, discarded_at on job_dlq
for each row execute function jsjobs_letter_decided();

-- No document is much longer, written out, than the body: 1e131071 is 8 characters, and no list could be read any more.
create function jsjobs_letter_document() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if length(new.payload_json::text) > greatest(20000, 8 * octet_length(new.payload)) then
        raise program_limit_exceeded using message = 'payload_json is too long, written out';
    end if;
    return new;
end $$;

create trigger jsjobs_letter_document before insert or update of payload, payload_json on job_dlq
for each row execute function jsjobs_letter_document();

-- A body is edited to what a queue takes; its document says what it says, or is none; the published one is kept.
create function jsjobs_letter_edited() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if old.error_history = '[]' and new.error_history <> '[]' then
        return new; -- the true letter takes the place of one that no entry vouched for
    end if;
    if old.replayed_job_id is not null and old.replayed_at is null then
        raise check_violation using message = 'the letter is being replayed: its job may be running with the body as it is';
    end if;
    if octet_length(new.payload) > 917504 then
        raise check_violation using message = 'the payload is larger than 896 KiB, which is all that a queue takes';
    end if;
    begin
        if new.payload_json <> convert_from(new.payload, 'UTF8')::jsonb then
            new.payload_json := null;
        end if;
    exception when data_exception or program_limit_exceeded then
        new.payload_json := null; -- the body is no JSON that jsonb holds
    end;
    new.original_payload := coalesce(old.original_payload, old.payload);
    new.edited_at := now();
    return new;
end $$;

create trigger jsjobs_letter_edited before update of payload, payload_json, original_payload, edited_at on job_dlq
for each row execute function jsjobs_letter_edited();
