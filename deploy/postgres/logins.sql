-- What every login of a Postgres database may do out of the box, and none of jsjobs needs: fill its disk with large objects
-- and temporary tables. Other ways to fill it stay, see docs/security.md. Run it once in the database, as a superuser:
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 --single-transaction -f deploy/postgres/logins.sql

do $$
begin
    execute format('revoke temporary, create on database %I from public', current_database());
end $$;
revoke create on schema public from public;
revoke execute on function
    lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea), lo_put(oid, bigint, bytea), lowrite(int, bytea),
    lo_truncate(int, int), lo_truncate64(int, bigint)
from public;
