//! Reads a parsed TOML document key by key. It collects all faults, the keys that were read, and the line of each
//! value.

use super::Fault;
use super::suggest::{describe, describe_char, key_name, nearest, printable};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The reader of one document. A path is the keys joined by dots, with an index for the items of a list:
/// `network.vip`, `node.0.address`.
pub(super) struct Reader<'a> {
    text: &'a str,
    faults: RefCell<Vec<Fault>>,
    lines: RefCell<BTreeMap<String, usize>>,
    /// Paths with a fault: their values are placeholders, and later rules skip them.
    faulty: RefCell<BTreeSet<String>>,
    /// If wanted: the JSON schema of every key.
    shapes: Option<RefCell<BTreeMap<String, Value>>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader {
            text,
            faults: Default::default(),
            lines: Default::default(),
            faulty: Default::default(),
            shapes: None,
        }
    }

    /// A reader that also records the JSON schema of each key that is read, for [`super::schema`].
    pub(super) fn recording(text: &'a str) -> Self {
        Reader { shapes: Some(Default::default()), ..Reader::new(text) }
    }

    /// The JSON schema of each key, by path.
    pub(super) fn into_shapes(self) -> BTreeMap<String, Value> {
        self.shapes.map(RefCell::into_inner).unwrap_or_default()
    }

    pub(super) fn top<'s>(&'s self, table: &'s DeTable<'s>) -> Section<'s> {
        Section { reader: self, path: String::new(), table: Some(table), known: Default::default() }
    }

    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    /// The line of `path`, or of the nearest enclosing table if the path has a default.
    fn line(&self, path: &str) -> usize {
        let lines = self.lines.borrow();
        let mut path = path;
        loop {
            if let Some(line) = lines.get(path) {
                return *line;
            }
            match path.rsplit_once('.') {
                Some((parent, _)) => path = parent,
                None => return 1,
            }
        }
    }

    fn record_line(&self, path: &str, span: std::ops::Range<usize>) {
        self.lines.borrow_mut().insert(path.into(), self.line_at(span.start));
    }

    pub(super) fn is_good(&self, path: &str) -> bool {
        !self.faulty.borrow().contains(path)
    }

    /// Records a fault at `path`, unless the path has one already.
    pub(super) fn fault(&self, path: &str, what: impl Into<String>, help: impl Into<String>) {
        let line = self.line(path);
        if self.faulty.borrow_mut().insert(path.to_string()) {
            self.faults.borrow_mut().push(Fault { line, what: what.into(), help: help.into() });
        }
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|f| f.line);
        faults
    }
}

/// One table of the document; a missing table reads as an empty one.
pub(super) struct Section<'s> {
    reader: &'s Reader<'s>,
    path: String,
    table: Option<&'s DeTable<'s>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'s> Section<'s> {
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    /// Records the JSON schema of `key`, if wanted.
    fn shape(&self, key: &'static str, shape: impl FnOnce() -> Value) {
        if let Some(shapes) = &self.reader.shapes {
            shapes.borrow_mut().insert(self.path(key), shape());
        }
    }

    fn get(&self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.known.borrow_mut().push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        self.reader.record_line(&self.path(key), name.span());
        Some(value)
    }

    /// The value of `key`, converted by `read`; `wanted` describes a valid value in the fault.
    fn read<T>(
        &self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&'s DeValue<'s>) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(key)?.get_ref();
        let result = read(value);
        let path = self.path(key);
        if result.is_none() && self.reader.is_good(&path) {
            let what = format!("{} is {}, not {wanted}", key_name(&path), describe(value));
            self.reader.fault(&path, what, format!("set it to {wanted}"));
        }
        result
    }

    /// A mandatory value: records a fault and returns `placeholder` if the key is missing.
    pub(super) fn required<T>(&self, key: &'static str, value: Option<T>, placeholder: T, help: &str) -> T {
        if let Some(shapes) = &self.reader.shapes
            && let Some(shape) = shapes.borrow_mut().get_mut(&self.path(key))
        {
            shape["required"] = true.into();
        }
        if self.table.is_none_or(|t| !t.contains_key(key)) {
            let path = self.path(key);
            self.reader.fault(&path, format!("{} is missing", key_name(&path)), help);
        }
        value.unwrap_or(placeholder)
    }

    /// Like [`Self::required`], for a key of an optional table.
    pub(super) fn required_if_present<T>(
        &self,
        key: &'static str,
        value: Option<T>,
        placeholder: T,
        help: &str,
    ) -> T {
        match self.is_present() || self.reader.shapes.is_some() {
            true => self.required(key, value, placeholder, help),
            false => placeholder,
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Records a fault at a key of this table.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>, help: impl Into<String>) {
        self.reader.fault(&self.path(key), what, help);
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        self.shape(key, || json!({"type": "boolean"}));
        self.read(key, "true or false", |value| match value {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<T> {
        self.number_for(key, range, "")
    }

    /// A number; `purpose` is added to the remedy for a wrong one.
    pub(super) fn number_for<T: TryFrom<i64>>(
        &self,
        key: &'static str,
        range: RangeInclusive<i64>,
        purpose: &str,
    ) -> Option<T> {
        self.shape(key, || json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}));
        let value = self.get(key)?.get_ref();
        let number = integer(value);
        let found = number.filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
        if found.is_none() {
            let path = self.path(key);
            let what = match number {
                Some(number) => format!("{} = {number} is out of range", key_name(&path)),
                None => format!("{} is {}, not a whole number", key_name(&path), describe(value)),
            };
            let help = match range == (i64::MIN..=i64::MAX) {
                true => "set it to a whole number".to_string(),
                false => format!("use {} to {}{purpose}", range.start(), range.end()),
            };
            self.reader.fault(&path, what, help);
        }
        found
    }

    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        self.shape(key, || json!({"type": "string", "pattern": PLAIN}));
        let path = self.path(key);
        self.read(key, "a string", |value| self.plain(&path, value))
    }

    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.shape(key, || json!({"enum": names}));
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        self.read(key, &quoted.join(" or "), |value| {
            let text = value.as_str()?;
            choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice)
        })
    }

    pub(super) fn address(&self, key: &'static str) -> Option<IpAddr> {
        self.shape(key, || json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}));
        self.read(key, "an address such as \"192.168.18.20\"", |value| value.as_str()?.parse().ok())
    }

    pub(super) fn net(&self, key: &'static str) -> Option<IpNet> {
        self.shape(key, || json!({"type": "string", "pattern": NETWORK}));
        let path = self.path(key);
        self.read(key, "a network such as \"192.168.18.0/24\"", |value| self.network(&path, value))
    }

    pub(super) fn nets(&self, key: &'static str) -> Option<Vec<IpNet>> {
        self.list_shape(key, json!({"type": "string", "pattern": NETWORK}));
        self.list(key, "a network such as \"192.168.18.0/24\"", |path, value| self.network(path, value))
    }

    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        self.list_shape(key, json!({"type": "string", "pattern": PLAIN}));
        self.list(key, "a string", |path, value| self.plain(path, value))
    }

    fn list_shape(&self, key: &'static str, items: Value) {
        self.shape(key, || json!({"type": "array", "items": items}));
    }

    fn list<T>(
        &self,
        key: &'static str,
        wanted: &str,
        item: impl Fn(&str, &'s DeValue<'s>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let values = self.read(key, "a list in square brackets", |value| value.as_array())?;
        let mut items = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let path = format!("{}.{index}", self.path(key));
            self.reader.record_line(&path, value.span());
            match item(&path, value.get_ref()) {
                Some(item) => items.push(item),
                None => {
                    let what = format!("an item of {} is not {wanted}", key_name(&path));
                    self.reader.fault(&path, what, format!("set each item to {wanted}"));
                }
            }
        }
        Some(items)
    }

    /// A network without host bits: `192.168.18.21/24` is more likely a mistake than intended.
    fn network(&self, path: &str, value: &DeValue<'_>) -> Option<IpNet> {
        let text = value.as_str()?;
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let help = format!("to mean this one address, write \"{address}/{bits}\"");
            self.reader.fault(path, format!("{} is an address, not a network", key_name(path)), help);
            return IpNet::new(address, bits).ok();
        }
        let net: IpNet = text.parse().ok()?;
        if net.trunc() != net {
            let what = format!("{} {net} is an address inside a network, not a network", key_name(path));
            self.reader.fault(path, what, format!("write \"{}\"", net.trunc()));
        }
        Some(net.trunc())
    }

    /// A string that needs no quoting in any configuration file.
    fn plain(&self, path: &str, value: &DeValue<'_>) -> Option<String> {
        let text = value.as_str()?;
        if let Some(c) = text.chars().find(|c| c.is_control() || matches!(c, '"' | '\'' | '\\' | '`')) {
            let what = format!("{} contains {}", key_name(path), describe_char(c));
            self.reader.fault(path, what, "remove quotation marks, backslashes and control characters");
        }
        Some(text.to_string())
    }

    /// Additional configuration lines, one for each item; quotation marks are allowed.
    pub(super) fn config_lines(&self, key: &'static str) -> Option<Vec<String>> {
        self.list_shape(key, json!({"type": "string", "pattern": LINE}));
        self.list(key, "a string of one line", |path, value| {
            let text = value.as_str()?;
            if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
                let what = format!("{} contains {}", key_name(path), describe_char(c));
                self.reader.fault(path, what, "write each line as a separate item");
            }
            Some(text.to_string())
        })
    }

    /// All keys of a table with arbitrary keys, with their values as text.
    pub(super) fn settings(&self) -> BTreeMap<String, String> {
        if let Some(shapes) = &self.reader.shapes {
            let any =
                json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}});
            shapes.borrow_mut().insert(self.path.clone(), any);
        }
        let mut settings = BTreeMap::new();
        for (key, value) in self.table.into_iter().flatten() {
            let path = self.path(key.get_ref());
            self.reader.record_line(&path, key.span());
            let text = match value.get_ref() {
                value @ DeValue::String(_) => self.plain(&path, value),
                DeValue::Boolean(flag) => Some(if *flag { "on" } else { "off" }.to_string()),
                DeValue::Float(float) => finite(float.as_str()),
                value => integer(value).map(|n| n.to_string()),
            };
            match text {
                Some(text) => drop(settings.insert(key.get_ref().to_string(), text)),
                None => {
                    let what = format!("{} is {}", key_name(&path), describe(value.get_ref()));
                    self.reader.fault(&path, what, "set it to a string, a number, true or false");
                }
            }
        }
        settings
    }

    pub(super) fn section(&self, key: &'static str) -> Section<'s> {
        let table = self.read(key, &format!("a table [{}]", self.path(key)), |value| value.as_table());
        Section { reader: self.reader, path: self.path(key), table, known: Default::default() }
    }

    /// The tables of a `[[key]]` list.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'s>> {
        let wanted = format!("a list of [[{key}]] tables");
        let Some(items) = self.read(key, &wanted, |value| value.as_array()) else {
            // For the schema, an item that shows its keys.
            let path = format!("{}.0", self.path(key));
            let shown = Section { reader: self.reader, path, table: None, known: Default::default() };
            return if self.reader.shapes.is_some() { vec![shown] } else { Vec::new() };
        };
        let sections = items.iter().enumerate().map(|(index, item)| {
            let path = format!("{}.{index}", self.path(key));
            self.reader.record_line(&path, item.span());
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.reader.fault(&path, format!("an item of {key} is not a table"), format!("use {wanted}"));
            }
            Section { reader: self.reader, path, table, known: Default::default() }
        });
        sections.collect()
    }

    /// Records a fault for each key that was not read.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        let unknown = self.table.into_iter().flatten().filter(|(key, _)| !known.contains(&&**key.get_ref()));
        for (key, _) in unknown {
            let name: &str = key.get_ref();
            let place = match self.path.as_str() {
                "" => String::new(),
                path => format!(" in [{}]", key_name(path)),
            };
            let help = match nearest(name, &known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            let line = self.reader.line_at(key.span().start);
            let what = format!("unknown key {}{place}", printable(name));
            self.reader.faults.borrow_mut().push(Fault { line, what, help });
        }
    }
}

// The rules of `Section::plain`, `Section::config_lines` and `Section::network` as JSON schema patterns.
const PLAIN: &str = r#"^[^"'`\\\u0000-\u001f\u007f-\u009f]*$"#;
const LINE: &str = r"^[^\u0000-\u0008\u000a-\u001f\u007f-\u009f]*$";
const NETWORK: &str = "^[0-9a-fA-F.:]+/[0-9]{1,3}$";

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(number) = value else { return None };
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn finite(text: &str) -> Option<String> {
    text.parse::<f64>().ok().filter(|f| f.is_finite()).map(|_| text.to_string())
}
