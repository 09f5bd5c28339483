-- The roles by which `jsjobs db migrate`'s functions know who may do what with dead letters.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 --single-transaction -f deploy/postgres/roles.sql
--
-- Run it as the owner of the tables, who migrates and has CREATEROLE, after `jsjobs db migrate`; again it does no harm. The
-- roles cannot log in: give each process a user of its own that is a member of one, with no more connections than it needs,
--
--   create role shop_router login password '…' connection limit 20 in role jsjobs_router;
--
-- and a tenant a user with a line in jsjobs_data.tenants, for each namespace and tenant whose letters it may see:
--
--   create role acme login password '…' connection limit 5 in role jsjobs_tenant;
--   insert into jsjobs_data.tenants (user_name, namespace, app_id) values ('acme', 'jobs', 'acme');

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

-- Nobody has a right on a table; a right of one of the roles could be dropped by each of its members.
do $$
declare
    held record;
begin
    for held in
        select distinct class.oid::regclass as place, grantee.rolname
        from pg_class as class cross join aclexplode(class.relacl) as granted
        left join pg_roles as grantee on grantee.oid = granted.grantee
        where class.relnamespace = 'jsjobs_data'::regnamespace and granted.grantee <> class.relowner
    loop
        execute format('revoke all on %s from %s', held.place, coalesce(quote_ident(held.rolname), 'public'));
    end loop;
end $$;
revoke all on schema jsjobs_data from public, jsjobs_router, jsjobs_operator, jsjobs_viewer, jsjobs_tenant;
grant select on jsjobs_migrations to public;

-- Everybody may call the functions, which ask who logged in.
grant usage on schema jsjobs_api to public;
grant execute on all functions in schema jsjobs_api to public;
