-- written by hanode for node1; edits are overwritten
-- Run by Patroni at bootstrap, after it has created admin, replicator and rewind_user. Can be run again.

-- Keeps the password out of the log, even after an error.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';

SELECT 'CREATE ROLE dbadmin' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbadmin') \gexec
ALTER ROLE dbadmin WITH LOGIN SUPERUSER CREATEDB CREATEROLE PASSWORD 'dbadmin-0123456789-not-for-use';
