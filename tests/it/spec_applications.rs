//! What applications declare in the spec: roles, databases, slots, users of Redis.

use crate::spec::one_fault;
use hanode_core::spec::{RedisAccess, STARTER, SlotKind, parse};

#[test]
fn users_of_redis_are_read_and_checked() {
    let declared = |text: &str| format!("{STARTER}\n[[redis_user]]{text}");
    let users = parse(&declared("\nname = \"shop\"")).unwrap_or_else(|faults| panic!("{faults}")).redis_users;
    assert_eq!((users[0].access, &users[0].keys[..]), (RedisAccess::All, &["*".to_string()][..]));
    for (text, piece, what) in [
        (" # nameless\naccess = \"read\"", "nameless", "name is missing"),
        ("\nname = \"sentinel\"", "\"sentinel\"", "a user of hanode"),
        ("\nname = \"x y\"", "x y", "valid name for a user of Redis"),
        ("\nname = \"u\"\n[[redis_user]]\nname = \"u\" # again", "again", "two users"),
        ("\nname = \"u\"\naccess = \"write\"", "\"write\"", "write"),
        ("\nname = \"u\"\nkeys = [\"*\", \"u:*\"]", "u:*", "includes the other patterns"),
        ("\nname = \"u\"\nkeys = [\"x y\"]", "x y", "valid pattern of keys"),
        ("\nname = \"u\"\nkeys = [\"a>hidden\"]", "a>hidden", "valid pattern of keys"),
        ("\nname = \"u\"\nchannels = [\"__sentinel__:hello\"]", "__sentinel__", "valid pattern of channels"),
        ("\nname = \"u\"\nchannels = [\"?*\"]", "?*", "valid pattern of channels"),
    ] {
        one_fault(&declared(text), piece, what);
    }
}

#[test]
fn roles_and_databases_are_read_and_checked() {
    let declared = |text: &str| {
        format!("{STARTER}\n{text}").replace("# wal_level = \"replica\"", "wal_level = \"logical\"")
    };
    let spec = parse(&declared(crate::cases::APPLICATIONS)).unwrap_or_else(|faults| panic!("{faults}"));
    let (reports, bot) = (&spec.roles[0], &spec.roles[2]);
    assert!(reports.has_password() && !bot.has_password() && !spec.roles[1].has_password());
    assert_eq!((reports.connection_limit, reports.settings["statement_timeout"].as_str()), (Some(5), "5min"));
    assert!(bot.replication && !reports.replication);
    let (database, plugin) = ("reports".to_string(), "pgoutput".to_string());
    assert_eq!(spec.slots[0].kind, SlotKind::Physical);
    assert_eq!(spec.slots[1].kind, SlotKind::Logical { database, plugin });
    assert_eq!((spec.databases[0].owner.as_str(), spec.databases[0].encoding.as_str()), ("reports", "UTF8"));
    let one = parse(&declared("[[role]]\nname = \"r\"\n[[database]]\nname = \"d\"\n")).expect("the least");
    assert!(one.roles[0].login && one.databases[0].owner == "app");

    for (text, piece, what) in [
        ("[[role]]\nname = \"Upper\"", "Upper", "valid name for a role"),
        ("[[role]]\nname = \"pg_own\"", "pg_own", "valid name for a role"),
        ("[[role]]\nname = \"a%b\"", "a%b", "valid name for a role"),
        ("[[role]] # nameless\nlogin = true", "nameless", "name is missing"),
        ("[[role]]\nname = \"dbadmin\"", "\"dbadmin\"", "a role of hanode"),
        ("[[role]]\nname = \"r\"\n[[role]]\nname = \"r\" # again", "again", "two roles"),
        ("[[role]]\nname = \"r\"\nmemberships = [\"admin\"]", "memberships = [\"admin", "superuser"),
        ("[[role]]\nname = \"r\"\nmemberships = [\"pg_read_server_files\"]", "server_files", "superuser"),
        ("[[role]]\nname = \"r\"\nsettings = { ssl = \"off\" }", "ssl = \"off", "cannot be set for a role"),
        ("[[role]]\nname = \"r\"\nlogin = false\ncertificate = true", "certificate = true", "no login"),
        ("[[database]]\nname = \"postgres\"", "\"postgres\"", "PostgreSQL's own"),
        ("[[database]]\nname = \"d\"\nowner = \"nobody\"", "nobody", "not a role of the spec"),
        ("[[database]]\nname = \"d\"\nextensions = [\"a%b\"]", "a%b", "extension"),
        ("[[database]]\nname = \"d\"\nlocale = \"x y\"", "x y", "locale"),
        ("[[hba]] # open\nrole = \"r\"", "# open", "method is missing"),
        ("[[hba]]\nmethod = \"trust\"", "\"trust\"", "\"password\" or \"certificate\""),
        ("[[hba]]\nrole = \"r all trust\"\nmethod = \"reject\"", "all trust", "valid role"),
        ("[[slot]]\nname = \"a-b\"\ntype = \"physical\"", "a-b", "valid name for a slot"),
        ("[[slot]]\nname = \"node2\" #\ntype = \"physical\"", "name = \"node2\" #", "slot of a node"),
        ("[[slot]] # untyped\nname = \"s\"", "untyped", "type is missing"),
        ("[[slot]]\nname = \"s\"\ntype = \"physical\"\nplugin = \"x\"", "plugin = \"x", "no plugin"),
        ("[[slot]]\nname = \"s\"\ntype = \"logical\"\ndatabase = \"d\"", "\"d\"", "not one of the spec"),
    ] {
        one_fault(&declared(text), piece, what);
    }
}

#[test]
fn a_logical_slot_needs_more_in_the_wal() {
    let slot = format!("{STARTER}\n[[slot]]\nname = \"audit\"\ntype = \"logical\" #\n");
    one_fault(&slot, "type = \"logical\" #", "a logical slot needs more in the WAL");
}
