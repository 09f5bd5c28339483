-- Least privileges on the dead-letter table, and tenants that see their own letters alone.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f deploy/postgres/roles.sql
--
-- Run it as the owner of the tables, who migrates and has CREATEROLE, after `jsjobs db migrate`; again after each new
-- version, it does no harm. The roles cannot log in: give each process a user of its own that is a member of one,
--
--   create role shop_router login password '…' in role jsjobs_router;
--
-- and a tenant a user with a line in jsjobs_tenants, for each namespace and tenant whose letters it may see:
--
--   create role acme login password '…' in role jsjobs_tenant;
--   insert into jsjobs_tenants (user_name, namespace, app_id) values ('acme', 'jobs', 'acme');
--
-- From now on a role that is neither the owner nor one of these sees no letter, whatever it was granted before.

do $$
declare
    role_name text;
begin
    foreach role_name in array array['jsjobs_router', 'jsjobs_operator', 'jsjobs_viewer', 'jsjobs_tenant'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            execute format('create role %I nologin', role_name);
        end if;
    end loop;
end $$;

create table if not exists jsjobs_tenants (
    user_name name not null, -- the database's user; nothing that a session can set decides whose letters it sees
    namespace text not null,
    app_id text not null, -- the tenant, as in job_dlq
    primary key (user_name, namespace, app_id)
);

revoke all on job_dlq, jsjobs_tenants, jsjobs_migrations from public;
grant select on jsjobs_migrations to jsjobs_router, jsjobs_operator, jsjobs_viewer, jsjobs_tenant;
grant select on jsjobs_tenants to jsjobs_tenant;

-- A router adds letters, and makes an unvouched one right; it decides on none.
revoke insert on job_dlq from jsjobs_router;
grant select on job_dlq to jsjobs_router;
grant insert (
    namespace, app_id, original_job_id, type, priority, entity, batch_id, payload, payload_json, headers, headers_raw,
    error_reason, error_history, errors_dropped, attempts, created_at, dead_at, traceparent
) on job_dlq to jsjobs_router;
grant update (
    app_id, type, priority, entity, batch_id, payload, payload_json, original_payload, headers, headers_raw,
    error_reason, error_history, errors_dropped, attempts, created_at, dead_at, discarded_at, traceparent
) on job_dlq to jsjobs_router;

-- Who decides: edits, replays, discards. What happened stays what happened, and triggers see that each step is one.
grant select on job_dlq to jsjobs_operator, jsjobs_tenant, jsjobs_viewer;
grant update (
    payload, payload_json, original_payload, edited_at, replayed_job_id, replayed_at, discarded_at
) on job_dlq to jsjobs_operator, jsjobs_tenant;

-- The owner is not bound by policies, so that migrations see every row: no process but `jsjobs db migrate` is to be it.
alter table job_dlq enable row level security;
alter table jsjobs_tenants enable row level security;

drop policy if exists jsjobs_all on job_dlq;
create policy jsjobs_all on job_dlq to jsjobs_operator, jsjobs_viewer using (true) with check (true);

drop policy if exists jsjobs_router_sees on job_dlq;
create policy jsjobs_router_sees on job_dlq for select to jsjobs_router using (true);

drop policy if exists jsjobs_router_adds on job_dlq;
create policy jsjobs_router_adds on job_dlq for insert to jsjobs_router with check (true);

-- A letter without any error is one that no entry vouched for: it gives way to the true one, once.
drop policy if exists jsjobs_router_mends on job_dlq;
create policy jsjobs_router_mends on job_dlq for update to jsjobs_router
using (error_history = '[]' and replayed_job_id is null)
with check (error_history <> '[]' and discarded_at is null);

drop policy if exists jsjobs_own on jsjobs_tenants;
create policy jsjobs_own on jsjobs_tenants for select to jsjobs_tenant using (user_name = current_user);

drop policy if exists jsjobs_tenant on job_dlq;
create policy jsjobs_tenant on job_dlq to jsjobs_tenant
using (
    exists (
        select from jsjobs_tenants as allowed
        where allowed.user_name = current_user
            and allowed.namespace = job_dlq.namespace
            and allowed.app_id = job_dlq.app_id
    )
);
