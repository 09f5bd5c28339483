-- The router's user of docker-compose.yml; its password is no secret. It may see letters too: `dlq list` runs beside it.
do $$
begin
    if not exists (select from pg_roles where rolname = 'router') then
        create role router login password 'router' in role jsjobs_router, jsjobs_viewer;
    end if;
end $$;
