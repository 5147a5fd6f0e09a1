//! The libraries that the parameters of `[postgres.parameters]` tell PostgreSQL to load. A server does not start without
//! those of `shared_preload_libraries`, and accepts no session without the others.

use super::Spec;

/// Each parameter, and the directory that PostgreSQL adds to a plain name, below its library directory.
const PARAMETERS: [(&str, &str); 3] = [
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", "plugins/"),
];

/// A library to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    pub parameter: &'static str,
    /// As the spec names it.
    pub name: String,
    /// Relative to PostgreSQL's library directory, or absolute; without `.so` if the name has none.
    pub path: String,
}

impl std::fmt::Display for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.parameter)
    }
}

impl Library {
    /// Whether one of the files for which PostgreSQL looks exists.
    pub fn is_found(&self, exists: impl Fn(&str) -> bool) -> bool {
        exists(&self.path) || exists(&format!("{}.so", self.path))
    }
}

impl Spec {
    /// None if the spec sets `dynamic_library_path`, which lets PostgreSQL look elsewhere.
    pub fn preloaded_libraries(&self) -> Vec<Library> {
        let set = |name: &str| {
            let mut parameters = self.postgres.parameters.iter();
            parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
        };
        if set("dynamic_library_path").is_some() {
            return Vec::new();
        }
        let of = |(parameter, dir): (&'static str, &str)| {
            let names = names(set(parameter).unwrap_or_default()).into_iter();
            let library = |name: String| Library { parameter, path: path(&name, dir), name };
            names.map(library).collect::<Vec<_>>()
        };
        PARAMETERS.into_iter().flat_map(of).collect()
    }
}

fn path(name: &str, dir: &str) -> String {
    match name.strip_prefix("$libdir/") {
        Some(rest) => rest.into(),
        None if name.contains('/') => name.into(),
        None => format!("{dir}{name}"),
    }
}

/// The names of a list as PostgreSQL reads it: separated by commas, in double quotes if needed.
fn names(list: &str) -> Vec<String> {
    let (mut names, mut name, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in list.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    names.iter().map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_looked_up_where_postgresql_loads_them() {
        let mut spec = crate::spec::parse(crate::spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let mut set = |name: &str, value: &str| spec.postgres.parameters.insert(name.into(), value.into());
        set("Shared_Preload_Libraries", "pg_stat_statements, \"$libdir/pg_cron\",/opt/x.so,");
        set("local_preload_libraries", "hook");
        let paths = |spec: &Spec| -> Vec<String> {
            spec.preloaded_libraries().into_iter().map(|library| library.path).collect()
        };
        assert_eq!(paths(&spec), ["pg_stat_statements", "pg_cron", "/opt/x.so", "plugins/hook"]);
        let found = |library: &Library, files: &[&str]| library.is_found(|path| files.contains(&path));
        let libraries = spec.preloaded_libraries();
        assert!(
            found(&libraries[0], &["pg_stat_statements.so"])
                && !found(&libraries[1], &["pg_stat_statements.so"])
        );
        assert!(found(&libraries[2], &["/opt/x.so"]));
        spec.postgres.parameters.insert("dynamic_library_path".into(), "/opt".into());
        assert_eq!(paths(&spec), [""; 0]);
    }
}
