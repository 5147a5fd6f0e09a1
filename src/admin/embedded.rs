//! The folder `image/` of the sources, embedded in the program.

use anyhow::{Context, Result, bail};
use hanode_core::render::Templates;
use hanode_core::target::Target;
use hanode_util::file_tree::Entry;
use hanode_util::user_error::{UserError, unreadable};
use include_dir::{Dir, File, include_dir};
use std::path::Path;

static IMAGE: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../image");

/// Appended to every target file: the rules of the files on a node.
const FILES: &str = "files.toml";

/// A target by its name, or by the path of a target file: the text that goes into the image, and the parsed target.
pub fn target(name: &str) -> Result<(String, Target)> {
    let (source, own_text) = if name.contains('/') || name.ends_with(".toml") {
        let text = std::fs::read_to_string(name).map_err(|error| unreadable(Path::new(name), error))?;
        (name.to_string(), text)
    } else if let Some(file) = IMAGE.get_file(format!("targets/{name}.toml")) {
        (format!("image/targets/{name}.toml"), text(file)?.to_string())
    } else {
        bail!(UserError::with_help(
            format!("unknown target {name:?}"),
            format!("use one of {}, or the path of a target file", targets().join(", "))
        ));
    };
    let files = IMAGE.get_file(FILES).with_context(|| format!("image/{FILES} is missing"))?;
    let text = format!("{own_text}\n{}", text(files)?);
    let target = Target::parse(&text).with_context(|| format!("{source} and image/{FILES}"))?;
    Ok((text, target))
}

pub(crate) fn targets() -> Vec<String> {
    let stems = files("targets").into_iter().filter_map(|f| f.path().file_stem());
    stems.map(|stem| stem.to_string_lossy().into_owned()).collect()
}

/// The templates of the files on a node.
pub fn templates() -> Templates {
    let text = |file: &&File| String::from_utf8_lossy(file.contents()).into_owned();
    Templates::from_texts(files("templates").iter().map(|file| (name(file), text(file))))
}

/// A file by its path in `image/`.
pub fn file(name: &str) -> Result<&'static File<'static>> {
    IMAGE.get_file(name).with_context(|| format!("image/{name} is missing"))
}

/// An OpenPGP key ring by its name in `image/keys`.
pub fn key(name: &str) -> Result<&'static [u8]> {
    let file = IMAGE.get_file(format!("keys/{name}"));
    Ok(file.with_context(|| format!("image/keys has no {name}"))?.contents())
}

/// The files directly in a folder of `image/`, sorted by name; empty if the folder does not exist.
pub fn files(folder: &str) -> Vec<&'static File<'static>> {
    let mut files: Vec<_> = IMAGE.get_dir(folder).map(|d| d.files().collect()).unwrap_or_default();
    files.sort_by_key(|f: &&File| f.path());
    files
}

/// All files below a folder of `image/`, as entries below `prefix`.
pub fn entries(folder: &str, prefix: &str) -> Vec<Entry> {
    let Some(dir) = IMAGE.get_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    let mut folders = vec![dir];
    while let Some(next) = folders.pop() {
        folders.extend(next.dirs());
        for file in next.files() {
            let inner = file.path().strip_prefix(folder).unwrap_or(file.path());
            // Embedded files have no mode; scripts must be executable.
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

/// The file name without its folder.
pub fn name(file: &'static File<'static>) -> String {
    file.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_target_can_be_the_path_of_a_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/targets");
        let (text, target) = super::target(&format!("{folder}/debian-12.toml")).unwrap();
        assert_eq!(target.name, "debian-12");
        assert!(text.contains("[[file]]") && !target.files.is_empty());
        for (name, expected) in
            [("./none.toml", "./none.toml: no such file"), ("debian-9", "unknown target \"debian-9\"")]
        {
            let error = format!("{:#}", super::target(name).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
