-- written by hanode for node1; edits are overwritten
-- Run by Patroni at bootstrap, after it has created admin, replicator and rewind_user. Can be run again.

-- Passwords are stored as verifiers; they are kept out of the log even so.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';

SELECT 'CREATE ROLE dbadmin' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbadmin') \gexec
ALTER ROLE dbadmin WITH LOGIN SUPERUSER CREATEDB CREATEROLE PASSWORD 'SCRAM-SHA-256$4096:N/YZnWORhp7cNmrHhYvVrg==$iBHGzx8iH7kQqV9fY5be07P4BTFIqX4SZx6QV4uK7xY=:EyB5VGXMBUaLoT2qoY+NxoBTrMPQqbguqKIRsKUUm2I=';

-- The role and the database of applications; hanode's watcher creates what cluster.toml declares besides.
SELECT 'CREATE ROLE app' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'app') \gexec
ALTER ROLE app WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:p47wlWv8H+dLZ+BZfVLpNw==$Sx/+8F0EWIQMlZUEOwJ0gK/RO+ZLzaTlAx8lVmRjcFo=:3rpjHy68I3l8Dy8u4MEOda2/xDzjveI+yMv3eJpUQE0=';
SELECT format('CREATE DATABASE app OWNER app TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', 'UTF8', 'C.UTF-8', 'C.UTF-8')
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'app') \gexec
