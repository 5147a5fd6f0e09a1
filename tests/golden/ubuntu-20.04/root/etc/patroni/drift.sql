-- written by hanode for node1; edits are overwritten
-- Prints one line for each difference between PostgreSQL and what cluster.toml declares.
SELECT format('role %s %s', wanted.name, what)
    FROM (VALUES
        ('app', true, true, false, -1, 'SCRAM-SHA-256$4096:p47wlWv8H+dLZ+BZfVLpNw==$Sx/+8F0EWIQMlZUEOwJ0gK/RO+ZLzaTlAx8lVmRjcFo=:3rpjHy68I3l8Dy8u4MEOda2/xDzjveI+yMv3eJpUQE0=')
    ) AS wanted (name, is_default, login, replication, connections, password)
    LEFT JOIN pg_catalog.pg_authid AS role ON role.rolname = wanted.name
    CROSS JOIN LATERAL (VALUES
        (role.rolname IS NULL, 'does not exist'),
        (wanted.login AND NOT role.rolcanlogin, 'cannot log in'),
        (role.rolcanlogin AND NOT wanted.login, 'can log in'),
        (wanted.replication AND NOT role.rolreplication, 'cannot read replication slots'),
        (role.rolreplication AND NOT wanted.replication, 'can read replication slots'),
        (role.rolconnlimit <> wanted.connections, 'has another connection limit'),
        (role.rolname IS NOT NULL AND role.rolpassword IS DISTINCT FROM wanted.password, 'has another password')
    ) AS difference (found, what)
    WHERE found AND (role.rolname IS NULL OR NOT wanted.is_default);
SELECT format('database %s %s', wanted.name, what)
    FROM (VALUES
        ('app', true, 'app')
    ) AS wanted (name, is_default, owner)
    LEFT JOIN pg_catalog.pg_database AS own ON own.datname = wanted.name
    CROSS JOIN LATERAL (VALUES
        (own.datname IS NULL, 'does not exist'),
        (pg_catalog.pg_get_userbyid(own.datdba) <> wanted.owner, 'has another owner')
    ) AS difference (found, what)
    WHERE found AND (own.datname IS NULL OR NOT wanted.is_default);
-- The rules in pg_hba.conf name roles, so they do not know other superusers.
SELECT format('role %s is a superuser, and clients can log in with its password', rolname)
    FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin AND rolname NOT IN ('admin', 'dbadmin');
-- Slots without a consumer, other than those of the nodes' own standbys: the watcher tells these lines by their first word.
SELECT format('slot %s %s %s', slot_name, 'inactive', coalesce(kept, 0))
    FROM pg_catalog.pg_replication_slots
    CROSS JOIN LATERAL (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint) AS wal (kept)
    WHERE NOT temporary AND slot_name NOT IN ('node1', 'node2', 'node3')
        AND (NOT active AND kept >= 64 * 1024 * 1024);
