-- written by hanode for node1; edits are overwritten
-- The roles and databases of applications: run on the leader after bootstrap and after `hanode apply`. It creates what is
-- missing and alters what differs, drops nothing, and leaves alone what cluster.toml does not name.

-- Passwords are stored as verifiers; they are kept out of the log even so.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET client_min_messages = 'warning';
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', 'app', 'SCRAM-SHA-256$4096:p47wlWv8H+dLZ+BZfVLpNw==$Sx/+8F0EWIQMlZUEOwJ0gK/RO+ZLzaTlAx8lVmRjcFo=:3rpjHy68I3l8Dy8u4MEOda2/xDzjveI+yMv3eJpUQE0=')
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'app') \gexec

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
        'app', 'app', 'UTF8', 'C.UTF-8', 'C.UTF-8')
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'app') \gexec
