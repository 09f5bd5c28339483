-- Ids of the parallel lane name their queue too: `normal-parallel-1795318823879006`.
drop function jsjobs_api.highest_sequences(text);

-- The highest sequence of each queue's stream among the ids of dead jobs. A stream begins at the clock, in
-- microseconds: 2^52 is the year 2112. What is beyond is forged, and would leave a stream few numbers up to 2^53, where
-- many clients lose count; below it, whatever a clock that was wrong has given, there are as many again.
create function jsjobs_api.highest_sequences(in_namespace text) returns table (queue text, sequence bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set client_min_messages = warning set lock_timeout = '2s'
as $$
begin
    if not jsjobs_data.is_one_of('jsjobs_operator', 'jsjobs_viewer', 'jsjobs_router') then
        raise insufficient_privilege
            using message = format('user %s is no member of jsjobs_operator, jsjobs_viewer or jsjobs_router', session_user);
    end if;
    return query select plain.words[1], max(plain.words[2]::bigint) from (
        select regexp_match(letter.original_job_id, '^(.*)-([0-9]+)$') as words from jsjobs_data.job_dlq as letter
        where letter.namespace = in_namespace
            and letter.original_job_id ~ '^(critical|high|normal|low)-(parallel-)?[1-9][0-9]{0,15}$'
        offset 0 -- filtered before the numbers are read
    ) as plain
    where plain.words[2]::bigint <= 4503599627370496
    group by 1;
end $$;
