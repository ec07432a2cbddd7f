//! YAML text -> a tree in which every node knows its line.
//!
//! Owns what YAML means: the core schema's scalars, anchors, and the bounds on a document. Refuses to know what any
//! key is for. A document that the bounds let pass is small enough to be walked by recursion.

use super::section::shown;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use std::collections::HashMap;

/// Nodes in one document, with each use of an anchor counted in full, so that nested anchors cannot multiply.
const NODES_MAX: usize = 10_000;
/// Levels of lists and mappings inside each other.
const DEPTH_MAX: usize = 64;

/// One value and the line (from 1) on which it starts.
#[derive(Debug, Clone)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

/// A value by the core schema of YAML 1.2. Scalars that are not text keep how they were written, for messages.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Flag(bool),
    Integer {
        value: i128,
        written: String,
    },
    /// A number that is not whole, or is out of every range.
    Number {
        written: String,
    },
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value`. The document's order is kept, and so are keys that stand twice.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub line: usize,
    pub value: Node,
}

/// Why a text is not one YAML document. Nothing of it can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct YamlError {
    pub line: usize,
    pub reason: String,
}

impl YamlError {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
        }
    }
}

impl From<ScanError> for YamlError {
    fn from(error: ScanError) -> Self {
        let column = error.marker().col() + 1;
        Self::new(
            error.marker().line(),
            format!("not YAML: {} (column {column})", error.info()),
        )
    }
}

/// Reads the one document of `text`. An empty text is the null document.
///
/// - Errors: [`YamlError`] for text that is not YAML, for more than one document, for tags (`!x`), for keys that are
///   not scalars, and for a document beyond the bounds of this module.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        last_line: 1,
    };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(_) if root.is_some() => {
                return Err(YamlError::new(
                    span.start.line(),
                    "a second document starts here; only one is read",
                ));
            }
            Event::DocumentStart(_) => {
                let (event, span) = reader.next()?;
                root = Some(reader.node(event, span, 0)?);
            }
            // The parser opens a document before anything that stands in it.
            _ => {
                return Err(YamlError::new(
                    span.start.line(),
                    "content outside of a document",
                ));
            }
        }
    }
    Ok(root.unwrap_or(Node {
        line: 1,
        value: Value::Null,
    }))
}

struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    /// Finished nodes that carry an anchor. One that is still being read is not here, so nothing can contain itself.
    anchors: HashMap<usize, Node>,
    nodes: usize,
    last_line: usize,
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<(Event<'text>, Span), YamlError> {
        let (event, span) = self.parser.next_event().ok_or_else(|| {
            YamlError::new(self.last_line, "the document ends in the middle of a value")
        })??;
        self.last_line = span.start.line();
        Ok((event, span))
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let line = span.start.line();
        self.count(1, line)?;
        if depth > DEPTH_MAX {
            return Err(YamlError::new(
                line,
                format!("more than {DEPTH_MAX} levels inside each other"),
            ));
        }
        let (anchor, tag, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = match style {
                    ScalarStyle::Plain => resolve_plain(&text),
                    _ => Value::Text(text.into_owned()),
                };
                (anchor, tag, value)
            }
            Event::SequenceStart(anchor, tag) => (anchor, tag, Value::List(self.list(depth)?)),
            Event::MappingStart(anchor, tag) => (anchor, tag, Value::Map(self.map(depth)?)),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).cloned() else {
                    return Err(YamlError::new(
                        line,
                        "an alias (`*name`) inside of what it refers to",
                    ));
                };
                self.count(size(&target), line)?;
                return Ok(target);
            }
            _ => return Err(YamlError::new(line, "a value is missing here")),
        };
        if let Some(tag) = tag {
            return Err(YamlError::new(
                line,
                format!(
                    "the tag `{}`: tags are not supported; remove it",
                    // Its `%0A` is a line break by now.
                    shown(&tag.to_string())
                ),
            ));
        }
        let node = Node { line, value };
        if anchor != 0 {
            self.count(size(&node), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, YamlError> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let line = span.start.line();
            let Event::Scalar(key, ..) = event else {
                return Err(YamlError::new(line, "a key must be plain text"));
            };
            let (event, span) = self.next()?;
            entries.push(Entry {
                key: key.into_owned(),
                line,
                value: self.node(event, span, depth + 1)?,
            });
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(YamlError::new(
                line,
                format!("more than {NODES_MAX} values, anchors counted in full"),
            ));
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Map(entries) => {
            entries
                .iter()
                .map(|entry| size(&entry.value))
                .sum::<usize>()
                + 1
        }
        _ => 1,
    }
}

/// The core schema (YAML 1.2.2 §10.3.2). What matches nothing is text.
fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Flag(true),
        "false" | "False" | "FALSE" => return Value::Flag(false),
        _ => {}
    }
    let written = || text.to_owned();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix_digits = text
        .strip_prefix("0x")
        .map(|d| (16, d))
        .or(text.strip_prefix("0o").map(|d| (8, d)));
    if let Some((radix, digits)) = radix_digits {
        if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
            return match i128::from_str_radix(digits, radix) {
                Ok(value) => Value::Integer {
                    value,
                    written: written(),
                },
                Err(_) => Value::Number { written: written() },
            };
        }
        return Value::Text(written());
    }
    if !unsigned.is_empty() && unsigned.chars().all(|c| c.is_ascii_digit()) {
        return match text.parse() {
            Ok(value) => Value::Integer {
                value,
                written: written(),
            },
            Err(_) => Value::Number { written: written() },
        };
    }
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned
            .chars()
            .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && text.parse::<f64>().is_ok();
    if is_number
        || matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
    {
        return Value::Number { written: written() };
    }
    Value::Text(written())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(text: &str) -> Vec<Entry> {
        match parse(text).expect("YAML").value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_and_values_know_their_lines() {
        let entries = entries("# a comment\na: 1\nb:\n  - x\n  - y: z\n");
        assert_eq!((entries[0].key.as_str(), entries[0].line), ("a", 2));
        assert_eq!((entries[1].key.as_str(), entries[1].line), ("b", 3));
        let Value::List(items) = &entries[1].value.value else {
            panic!("{entries:?}")
        };
        assert_eq!((items[0].line, items[1].line), (4, 5));
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        assert!(matches!(resolve_plain("~"), Value::Null));
        assert!(matches!(resolve_plain("True"), Value::Flag(true)));
        assert!(matches!(
            resolve_plain("-12"),
            Value::Integer { value: -12, .. }
        ));
        assert!(matches!(
            resolve_plain("0x10"),
            Value::Integer { value: 16, .. }
        ));
        assert!(matches!(
            resolve_plain("0o10"),
            Value::Integer { value: 8, .. }
        ));
        assert!(matches!(resolve_plain("1e3"), Value::Number { .. }));
        assert!(matches!(resolve_plain(".inf"), Value::Number { .. }));
        for text in [
            "yes",
            "1m30s",
            "127.0.0.1:46357",
            "0x",
            "0xg",
            "-",
            ".",
            "..",
            "e5",
            "1_000",
            "node-1",
        ] {
            assert!(matches!(resolve_plain(text), Value::Text(_)), "{text}");
        }
        assert!(matches!(
            entries("a: 'true'")[0].value.value,
            Value::Text(_)
        ));
    }

    #[test]
    fn an_anchor_stands_for_its_value_wherever_it_is_used() {
        let entries = entries("a: &x {k: 5}\nb: *x\n");
        let Value::Map(copy) = &entries[1].value.value else {
            panic!("{entries:?}")
        };
        assert!(matches!(
            copy[0].value.value,
            Value::Integer { value: 5, .. }
        ));
    }

    #[test]
    fn anchors_that_multiply_are_stopped() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let uses = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
        }
        assert!(parse(&text).unwrap_err().reason.contains("values"));
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_with_its_line() {
        let line_and_reason = |text: &str| {
            parse(text)
                .map(drop)
                .map_err(|e| (e.line, e.reason))
                .unwrap_err()
        };
        assert_eq!(line_and_reason("a: &x [*x]\n").0, 1);
        assert_eq!(line_and_reason("a: 1\n---\nb: 2\n").0, 2);
        let escaped = line_and_reason("!a%0A%1b b");
        assert!(!escaped.1.contains(char::is_control), "{escaped:?}");
        assert_eq!(line_and_reason("a: 1\nb: !thing 2\n").0, 2);
        assert_eq!(line_and_reason("a: 1\n? [x]\n: 2\n").0, 2);
        assert_eq!(line_and_reason("a: 1\nb: [1, 2\n").0, 3);
        let deep = format!("{}x", "- ".repeat(DEPTH_MAX + 2));
        assert!(line_and_reason(&deep).1.contains("levels"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _outcome = parse(&text);
        }

        /// Text out of YAML's own punctuation reaches far more of the parser than arbitrary text does.
        #[test]
        fn arbitrary_punctuation_never_panics(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "b: ", "- ", "? ", ": ", "\n", "  ", "\t", "[", "]", "{", "}", ",", "&x ", "*x", "!t ", "!!str ",
                    "|", ">", "'", "\"", "\\", "\\x4", "\\u12", "#", "%YAML 1.2\n", "---\n", "...\n", "~", "5", "\u{feff}",
                    "\r", "\u{85}", "é",
                ]),
                0..40,
            ),
        ) {
            let _outcome = parse(&parts.concat());
        }
    }
}
