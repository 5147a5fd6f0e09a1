//! hanode's targets from `image/targets`, for unit tests.

use super::Target;
use std::path::{Path, PathBuf};

fn image(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image").join(path)
}

pub(crate) fn text(name: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(image(path)).unwrap();
    format!("{}\n{}", read(&format!("targets/{name}.toml")), read("files.toml"))
}

pub(crate) fn target(name: &str) -> Target {
    Target::parse(&text(name)).unwrap()
}

pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(image("targets")).unwrap().map(|file| file.unwrap().path());
    files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect()
}
