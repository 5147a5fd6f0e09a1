//! Templates by name, and the engine that renders them: without escaping, and strict about undefined names.

use super::sql;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use tera::{Kwargs, State, Tera};

/// Templates: name to text.
#[derive(Debug, Clone, Default)]
pub struct Templates(BTreeMap<String, String>);

impl Templates {
    /// Loads all files of a directory; on a node, `/usr/lib/hanode/templates`.
    pub fn load(dir: &Path) -> Result<Self> {
        let listing = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
        let mut templates = BTreeMap::new();
        for item in listing {
            let path = item.with_context(|| format!("reading {}", dir.display()))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("reading template {}", path.display()))?;
            templates.insert(name, text);
        }
        Ok(Templates(templates))
    }

    /// Templates from pairs of name and text.
    pub fn from_texts(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        Templates(texts.into_iter().collect())
    }

    #[cfg(test)]
    pub(super) fn of(texts: &[(&str, &str)]) -> Self {
        Templates::from_texts(texts.iter().map(|(name, text)| (name.to_string(), text.to_string())))
    }

    /// Parses all templates; an error has the file and the line.
    pub(super) fn engine(&self) -> Result<Tera> {
        let mut tera = Tera::new();
        tera.autoescape_on(Vec::<&str>::new());
        // A plain `if` treats an undefined name as false; `is on` requires a boolean.
        tera.register_test("on", |value: bool, _: Kwargs, _: &State| value);
        // A JSON string is also a YAML string.
        tera.register_filter("quoted", |text: &str, _: Kwargs, _: &State| {
            serde_json::Value::from(text).to_string()
        });
        tera.register_filter("identifier", |text: &str, _: Kwargs, _: &State| sql::identifier(text));
        tera.register_filter("literal", |text: &str, _: Kwargs, _: &State| sql::literal(text));
        tera.add_raw_templates(self.0.iter()).context("parsing the templates")?;
        Ok(tera)
    }
}

/// Renders one template.
pub(super) fn fill(engine: &Tera, name: &str, context: &tera::Context) -> Result<String> {
    engine.render(name, context).with_context(|| format!("rendering template {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String> {
        let engine = Templates::of(&[("a.conf", text)]).engine()?;
        let mut context = tera::Context::new();
        context.insert("known", &serde_json::json!({"yes": true, "no": false, "word": "a<b&\"c\""}));
        fill(&engine, "a.conf", &context)
    }

    #[test]
    fn text_is_not_escaped() {
        assert_eq!(filled("{{ known.word }}").expect("fills"), "a<b&\"c\"");
        assert_eq!(filled("{{ known.word | quoted }}").expect("fills"), r#""a<b&\"c\"""#);
        assert_eq!(
            filled("{% if known.yes is on and known.no is not on %}x{% endif %}").expect("fills"),
            "x"
        );
    }

    #[test]
    fn an_undefined_name_is_an_error_with_file_and_line() {
        for bad in ["{{ nothing }}", "{{ known.nothing }}", "{% if known.nothing is on %}{% endif %}"] {
            let error = format!("{:#}", filled(&format!("\n{bad}")).expect_err(bad));
            assert!(error.contains("a.conf:2"), "{error}");
        }
        let error = format!("{:#}", filled("\n\n{{ known.word ").expect_err("does not parse"));
        assert!(error.contains("a.conf:3"), "{error}");
    }

    /// A condition without `is on` would treat a misspelt name as false.
    #[test]
    fn every_condition_in_the_templates_is_strict() {
        let local = |word: &str| ["loop.", "each."].iter().any(|name| word.starts_with(name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../image/templates");
        for (name, text) in Templates::load(Path::new(folder)).expect("the templates").0 {
            for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains("{")) {
                for condition in line.split(" if ").skip(1) {
                    let words: Vec<&str> = condition
                        .split_whitespace()
                        .take_while(|w| !["else", "%}", "-%}"].contains(w))
                        .collect();
                    for (at, word) in words.iter().enumerate() {
                        let strict = local(word) || !word.contains('.') || words.get(at + 1) == Some(&"is");
                        assert!(strict, "{name}:{}: {line}", number + 1);
                    }
                }
            }
        }
    }
}
