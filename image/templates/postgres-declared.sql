-- written by hanode for {{ node.name }}; edits are overwritten
-- The roles and databases of applications: run on the leader after bootstrap and after `hanode apply`. It creates what is
-- missing and alters what differs, drops nothing, and leaves alone what cluster.toml does not name.

-- Passwords are stored as verifiers; they are kept out of the log even so.
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET client_min_messages = 'warning';
{%- for each in declared.roles %}

{%- if each.is_default %}
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', {{ each.name | literal }}, {{ each.password }})
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {{ each.name | literal }}) \gexec
{%- else %}
SELECT format('CREATE ROLE %I', {{ each.name | literal }})
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {{ each.name | literal }}) \gexec
ALTER ROLE {{ each.name | identifier }} WITH {{ "LOGIN" if each.login else "NOLOGIN" }} {{ "REPLICATION" if each.replication else "NOREPLICATION" }} CONNECTION LIMIT {{ each.connection_limit }} PASSWORD {{ each.password }};
{%- for setting in each.settings %}
ALTER ROLE {{ each.name | identifier }} SET {{ setting.name }} = {{ setting.value }};
{%- endfor %}
{%- endif %}
{%- endfor %}
{%- for each in declared.memberships %}
GRANT {{ each.group | identifier }} TO {{ each.member | identifier }};
{%- endfor %}
{%- for each in declared.databases %}

SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
        {{ each.name | literal }}, {{ each.owner | literal }}, {{ each.encoding | literal }}, {{ each.locale | literal }}, {{ each.locale | literal }})
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {{ each.name | literal }}) \gexec
{%- if not each.is_default %}
ALTER DATABASE {{ each.name | identifier }} OWNER TO {{ each.owner | identifier }};
{%- endif %}
{%- endfor %}
{%- for each in declared.extensions %}

\connect {{ each.database | identifier }}
SET client_min_messages = 'warning';
CREATE EXTENSION IF NOT EXISTS {{ each.name | identifier }};
{%- endfor %}
