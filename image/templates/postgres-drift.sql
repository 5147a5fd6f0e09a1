-- written by hanode for {{ node.name }}; edits are overwritten
-- Prints one line for each difference between PostgreSQL and what cluster.toml declares.
SELECT format('role %s %s', wanted.name, what)
    FROM (VALUES
{%- for each in declared.roles %}
        ({{ each.name | literal }}, {{ each.is_default }}, {{ each.login }}, {{ each.replication }}, {{ each.connection_limit }}, {{ each.password }}){{ "" if loop.last else "," }}
{%- endfor %}
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
{%- for each in declared.memberships %}
SELECT {{ each.missing | literal }} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members AS pair
    JOIN pg_catalog.pg_roles AS granted ON granted.oid = pair.roleid JOIN pg_catalog.pg_roles AS role ON role.oid = pair.member
    WHERE granted.rolname = {{ each.group | literal }} AND role.rolname = {{ each.member | literal }});
{%- endfor %}
{%- for role in declared.roles %}
{%- for each in role.settings %}
SELECT {{ each.missing | literal }} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS own
    JOIN pg_catalog.pg_roles AS role ON role.oid = own.setrole CROSS JOIN LATERAL unnest(own.setconfig) AS setting
    WHERE own.setdatabase = 0 AND role.rolname = {{ role.name | literal }} 
        AND lower(split_part(setting, '=', 1)) = {{ each.name | literal }}{% if each.stored is string %} AND substr(setting, strpos(setting, '=') + 1) = {{ each.stored | literal }}{% endif %});
{%- endfor %}
{%- endfor %}
SELECT format('database %s %s', wanted.name, what)
    FROM (VALUES
{%- for each in declared.databases %}
        ({{ each.name | literal }}, {{ each.is_default }}, {{ each.owner | literal }}){{ "" if loop.last else "," }}
{%- endfor %}
    ) AS wanted (name, is_default, owner)
    LEFT JOIN pg_catalog.pg_database AS own ON own.datname = wanted.name
    CROSS JOIN LATERAL (VALUES
        (own.datname IS NULL, 'does not exist'),
        (pg_catalog.pg_get_userbyid(own.datdba) <> wanted.owner, 'has another owner')
    ) AS difference (found, what)
    WHERE found AND (own.datname IS NULL OR NOT wanted.is_default);
{%- if spec.postgres.superusers_from_clients is not on %}
-- The rules in pg_hba.conf name roles, so they do not know other superusers.
SELECT format('role %s is a superuser, and clients can log in with its password', rolname)
    FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin AND rolname NOT IN ('admin', 'dbadmin');
{%- endif %}
{%- for each in permanent_slots %}
SELECT {{ each.missing | literal }} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = {{ each.name | literal }});
{%- endfor %}
-- Slots without a consumer, other than those of the nodes' own standbys: the watcher tells these lines by their first word.
SELECT format('slot %s %s %s', slot_name, {{ "CASE wal_status WHEN 'lost' THEN 'lost' ELSE 'inactive' END" if features.postgres_wal_keep_size is on else "'inactive'" }}, coalesce(kept, 0))
    FROM pg_catalog.pg_replication_slots
    CROSS JOIN LATERAL (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint) AS wal (kept)
    WHERE NOT temporary AND slot_name NOT IN ({% for each in slots_of_nodes %}{{ each | literal }}{{ "" if loop.last else ", " }}{% endfor %})
        AND ({{ "wal_status = 'lost' OR " if features.postgres_wal_keep_size is on else "" }}NOT active AND kept >= 64 * 1024 * 1024);
{%- for each in declared.extensions %}
SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {{ each.database | literal }}) AS present \gset
\if :present
\connect {{ each.database | identifier }}
SELECT {{ each.missing | literal }} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = {{ each.name | literal }});
\endif
{%- endfor %}
