-- written by hanode for {{ node.name }}; edits are overwritten
-- Run by Patroni at bootstrap, after it has created admin, replicator and rewind_user. Can be run again.

-- Passwords are stored as verifiers; they are kept out of the log even so.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';

SELECT 'CREATE ROLE dbadmin' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbadmin') \gexec
ALTER ROLE dbadmin WITH LOGIN SUPERUSER CREATEDB CREATEROLE PASSWORD {{ verifiers.dbadmin | literal }};

-- The role and the database of applications; hanode's watcher creates what cluster.toml declares besides.
SELECT 'CREATE ROLE app' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'app') \gexec
ALTER ROLE app WITH LOGIN PASSWORD {{ verifiers.app | literal }};
{%- for each in declared.databases %}
{%- if each.name == "app" %}
SELECT format('CREATE DATABASE app OWNER app TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', {{ each.encoding | literal }}, {{ each.locale | literal }}, {{ each.locale | literal }})
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'app') \gexec
{%- endif %}
{%- endfor %}
