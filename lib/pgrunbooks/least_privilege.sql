-- A role for pgrunbooks {version}, target {target}: it sees what the checks ask for and changes nothing.
-- Read it, take out what you do not want, and run it in psql, on the primary, in the database to watch:
--     psql -X -d DATABASE -f pgrunbooks.sql
-- Run it as superuser, or on a managed service, which keeps that for itself, as its administrator: a role that may create
-- roles and grant pg_monitor. What takes a superuser is then left out and said so.
-- It may run again; what stands here is then set anew. What is of one database only is said so: run it in each.

\set ON_ERROR_STOP on
begin;
select current_setting('is_superuser') = 'on' as is_superuser,
    current_setting('server_version_num')::int >= 160000 as has_reserved_connections \gset

-- The role, where it does not exist. It has no password: set one afterwards (see the end).
select 'create role {role}'
where not exists (select from pg_catalog.pg_roles where rolname = '{role}') \gexec

-- It may log in and nothing else; five sessions at once, so that it never fills a server that is in trouble.
alter role {role} with login inherit connection limit 5;
\if :is_superuser
alter role {role} with nosuperuser nocreatedb nocreaterole noreplication nobypassrls;
\endif

-- Guard rails for every session of it, whatever the client: a statement and a lock are waited for no longer than
-- this, a forgotten transaction ends by itself, and transactions are read only unless somebody asks otherwise.
alter role {role} set statement_timeout = '{statement_timeout}';
alter role {role} set lock_timeout = '{lock_timeout}';
alter role {role} set idle_in_transaction_session_timeout = '60s';
alter role {role} set default_transaction_read_only = on;

-- This database: connecting, where PUBLIC may not.
grant connect on database :"DBNAME" to {role};

-- Level 1, the whole server: what other roles' sessions and statements do, replication, sizes, every setting (also
-- primary_conninfo: a standby's password for its primary stands there, unless it is kept in a .pgpass).
{level_1}

-- Level 2, this database: the rules of pg_hba.conf and the lines of postgresql.conf with their errors. The views and
-- the functions below them are for superusers alone otherwise. They show what stands in the files: where somebody
-- wrote a secret there (ldapbindpasswd, radiussecrets, primary_conninfo), that as well.
\if :is_superuser
{level_2}
\else
\echo 'Left out, since it takes a superuser: level 2, the rules of pg_hba.conf and the lines of postgresql.conf.'
\endif

-- Level 3, the whole server: reading every table, for sequences, bloat, key ranges and the what-if lab. This includes
-- the rows of your users, and secrets of the catalog: password hashes (pg_authid), subscriptions' connection strings.
-- Where that is too much, take the line out and grant this instead, for each schema:
--     grant usage on schema SCHEMA to {role};
--     grant select on all tables in schema SCHEMA to {role};
--     grant select on all sequences in schema SCHEMA to {role};
{level_3}

-- PostgreSQL 16 and later: the slots of reserved_connections, to get in when all others are taken.
\if :is_superuser
\if :has_reserved_connections
grant pg_use_reserved_connections to {role};
\endif
\endif

commit;

-- The password, asked for and sent as a hash only; then put it into ~/.pgpass of whoever runs pgrunbooks:
-- \password {role}
-- A line for pg_hba.conf, unless one fits already:
--     hostssl  DATABASE  {role}  ADDRESS/32  scram-sha-256
-- This database, once: which statements take the time (pg_stat_statements has to be in shared_preload_libraries).
-- create extension if not exists pg_stat_statements;
-- To undo it all, in each database where it ran: drop owned by {role};  and once at the end: drop role {role};
