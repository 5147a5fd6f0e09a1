//! What lands in an image, embedded: the folder `image/` of the sources.

use anyhow::{Context, Result, bail};
use hanode_core::render::Templates;
use hanode_core::target::Target;
use hanode_util::file_tree::Entry;
use include_dir::{Dir, File, include_dir};

static IMAGE: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../image");

/// What every target's file is continued with: which files a node is given.
const FILES: &str = "files.toml";

/// A target by name, or by the path of an operator's own file: its text, as it goes into the image, and what it says.
pub fn target(name: &str) -> Result<(String, Target)> {
    let (at, own) = if name.contains('/') || name.ends_with(".toml") {
        (name.to_string(), std::fs::read_to_string(name).with_context(|| format!("reading target {name}"))?)
    } else if let Some(file) = IMAGE.get_file(format!("targets/{name}.toml")) {
        (format!("image/targets/{name}.toml"), text(file)?.to_string())
    } else {
        bail!("no target {name:?}; there are: {}; or name a file of your own", targets().join(", "));
    };
    let files = IMAGE.get_file(FILES).with_context(|| format!("image/{FILES} is missing"))?;
    let text = format!("{own}\n{}", text(files)?);
    let target = Target::parse(&text).with_context(|| format!("{at} and image/{FILES}"))?;
    Ok((text, target))
}

pub(crate) fn targets() -> Vec<String> {
    let stems = files("targets").into_iter().filter_map(|f| f.path().file_stem());
    stems.map(|stem| stem.to_string_lossy().into_owned()).collect()
}

/// The templates that this program was built with.
pub fn templates() -> Templates {
    let text = |file: &&File| String::from_utf8_lossy(file.contents()).into_owned();
    Templates::from_texts(files("templates").iter().map(|file| (name(file), text(file))))
}

/// Any one file of `image/`.
pub fn file(name: &str) -> Result<&'static File<'static>> {
    IMAGE.get_file(name).with_context(|| format!("image/{name} is missing"))
}

/// A key ring of `image/keys`.
pub fn key(name: &str) -> Result<&'static [u8]> {
    let file = IMAGE.get_file(format!("keys/{name}"));
    Ok(file.with_context(|| format!("image/keys has no {name}"))?.contents())
}

/// The files directly in a folder of `image/`, by name; none where there is no such folder.
pub fn files(folder: &str) -> Vec<&'static File<'static>> {
    let mut files: Vec<_> = IMAGE.get_dir(folder).map(|d| d.files().collect()).unwrap_or_default();
    files.sort_by_key(|f: &&File| f.path());
    files
}

/// Everything below a folder of `image/`, as files at `prefix` in a tree.
pub fn entries(folder: &str, prefix: &str) -> Vec<Entry> {
    let Some(dir) = IMAGE.get_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    let mut folders = vec![dir];
    while let Some(next) = folders.pop() {
        folders.extend(next.dirs());
        for file in next.files() {
            let inner = file.path().strip_prefix(folder).unwrap_or(file.path());
            // What is embedded has lost its mode: a script is to be run.
            let mode = if file.contents().starts_with(b"#!") { 0o755 } else { 0o644 };
            found.push(Entry::file(format!("{prefix}/{}", inner.display()), mode, file.contents()));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

pub fn text(file: &'static File<'static>) -> Result<&'static str> {
    file.contents_utf8().with_context(|| format!("image/{} is not UTF-8", file.path().display()))
}

/// A file's last path component.
pub fn name(file: &'static File<'static>) -> String {
    file.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_target_may_be_a_file_of_ones_own() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/targets");
        let (text, target) = super::target(&format!("{folder}/debian-12.toml")).unwrap();
        assert_eq!(target.name, "debian-12");
        assert!(text.contains("[[file]]") && !target.files.is_empty());
        for (name, told) in
            [("./none.toml", "reading target ./none.toml"), ("debian-9", "a file of your own")]
        {
            let error = format!("{:#}", super::target(name).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
