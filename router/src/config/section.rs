//! Walks the file's tree: where a value stands, what it should have been, and the list of everything found.
//!
//! Knows no key. Each reading method returns `None` for a value that is absent (null) or wrong; in the second case
//! the finding is already on the list, so a caller never reports twice.

use super::duration::parse_duration;
use super::yaml::{Node, Value};
use super::{Environment, Remark};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Bytes of a file that `${file:PATH}` names.
const SUBSTITUTE_BYTES_MAX: u64 = 1 << 20;
/// Characters of a key or a value that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// One value of the file, and where it stands.
pub struct Item<'tree> {
    /// The way from the top, as in [`Remark::key`].
    pub key: String,
    /// The line of its key; of the value itself in a list.
    pub line: usize,
    pub node: &'tree Node,
}

impl<'tree> Item<'tree> {
    pub fn root(node: &'tree Node) -> Self {
        Self {
            key: String::new(),
            line: node.line,
            node,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Whether there is nothing in it: null, or a list or mapping with nothing inside.
    pub fn is_empty(&self) -> bool {
        match &self.node.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// What was written, short enough for a message.
    pub fn shown(&self) -> String {
        let written = match &self.node.value {
            Value::Null => return "nothing".to_owned(),
            Value::List(_) => return "a list".to_owned(),
            Value::Map(_) => return "a mapping".to_owned(),
            Value::Flag(flag) => return format!("`{flag}`"),
            Value::Integer { written, .. } | Value::Number { written } | Value::Text(written) => {
                written
            }
        };
        format!("`{}`", shown(written))
    }
}

/// `text` as a message repeats it: on one line, and not at length.
pub fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Everything found on the way through one file.
pub struct Findings<'a> {
    file: &'a Path,
    environment: Environment<'a>,
    pub problems: Vec<Remark>,
    pub notes: Vec<Remark>,
}

impl<'a> Findings<'a> {
    pub fn new(file: &'a Path, environment: Environment<'a>) -> Self {
        Self {
            file,
            environment,
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn refuse(&mut self, item: &Item, reason: impl Into<String>) {
        self.problems.push(self.remark(item, reason.into()));
    }

    /// Refuses, and is the `None` that the caller returns for it.
    pub fn refuse_value<T>(&mut self, item: &Item, reason: impl Into<String>) -> Option<T> {
        self.refuse(item, reason);
        None
    }

    pub fn note(&mut self, item: &Item, text: impl Into<String>) {
        self.notes.push(self.remark(item, text.into()));
    }

    fn remark(&self, item: &Item, text: String) -> Remark {
        Remark {
            file: self.file.to_owned(),
            line: item.line,
            key: item.key.clone(),
            text,
        }
    }

    /// The reason for a key that nobody knows, with the known key that was probably meant.
    pub fn unknown(&mut self, item: &Item, name: &str, known: &[&str]) {
        let reason = match nearest(name, known) {
            Some(meant) => format!("unknown key; did you mean `{meant}`?"),
            None => format!("unknown key; known here: {}", known.join(", ")),
        };
        self.refuse(item, reason);
    }

    /// The entries of a mapping with their names, in the file's order; of two with one name, the first. A null has
    /// none. Anything but a mapping is refused: `None`.
    pub fn entries<'tree>(&mut self, item: &Item<'tree>) -> Option<Vec<(&'tree str, Item<'tree>)>> {
        let entries = match &item.node.value {
            Value::Null => return Some(Vec::new()),
            Value::Map(entries) => entries,
            _ => return self.wrong(item, "a mapping (`key: value` lines) is expected"),
        };
        let mut found: Vec<(&str, Item)> = Vec::new();
        for entry in entries {
            let name = shown(&entry.key);
            let key = if item.key.is_empty() {
                name
            } else {
                format!("{}.{name}", item.key)
            };
            let entry_item = Item {
                key,
                line: entry.line,
                node: &entry.value,
            };
            match found.iter().find(|(name, _)| *name == entry.key) {
                Some((_, first)) => {
                    let reason = format!("stands twice; the first is on line {}", first.line);
                    self.refuse(&entry_item, reason);
                }
                None => found.push((entry.key.as_str(), entry_item)),
            }
        }
        Some(found)
    }

    /// The items of a list. A null has none. Anything but a list is refused: `None`.
    pub fn items<'tree>(&mut self, item: &Item<'tree>) -> Option<Vec<Item<'tree>>> {
        let nodes = match &item.node.value {
            Value::Null => return Some(Vec::new()),
            Value::List(nodes) => nodes,
            _ => return self.wrong(item, "a list (`- item` lines) is expected"),
        };
        let item_at = |(position, node): (usize, &'tree Node)| Item {
            key: format!("{}[{position}]", item.key),
            line: node.line,
            node,
        };
        Some(nodes.iter().enumerate().map(item_at).collect())
    }

    pub fn flag(&mut self, item: &Item) -> Option<bool> {
        match &item.node.value {
            Value::Null => None,
            Value::Flag(flag) => Some(*flag),
            _ => self.wrong(item, "true or false is expected"),
        }
    }

    /// A whole number from `least` to `most`.
    pub fn number(&mut self, item: &Item, least: u64, most: u64) -> Option<u64> {
        match &item.node.value {
            Value::Null => None,
            Value::Integer { value, .. } => match u64::try_from(*value) {
                Ok(number) if (least..=most).contains(&number) => Some(number),
                _ => self.wrong(item, &format!("{least} to {most} is accepted")),
            },
            _ => self.wrong(item, "a whole number is expected"),
        }
    }

    /// A number of things, from `least` to `most`.
    pub fn count<T: Copy + TryInto<u64> + TryFrom<u64>>(
        &mut self,
        item: &Item,
        least: T,
        most: T,
    ) -> Option<T> {
        let most = most.try_into().unwrap_or(u64::MAX);
        let number = self.number(item, least.try_into().unwrap_or(0), most)?;
        T::try_from(number).ok()
    }

    /// A number of bytes from `least` to `most`: a whole number, or one with a unit, such as `64 MiB`.
    pub fn bytes<T: Copy + TryInto<u64> + TryFrom<u64>>(
        &mut self,
        item: &Item,
        least: T,
        most: T,
    ) -> Option<T> {
        if !matches!(item.node.value, Value::Text(_)) {
            return self.count(item, least, most);
        }
        let text = self.text(item)?;
        let Some(bytes) = parse_bytes(&text) else {
            return self.wrong(
                item,
                "bytes are expected: a whole number, alone or with kB, MB, GB, KiB, MiB or GiB",
            );
        };
        let least = least.try_into().unwrap_or(0);
        let most = most.try_into().unwrap_or(u64::MAX);
        if !(least..=most).contains(&bytes) {
            return self.wrong(item, &format!("{least} to {most} bytes are accepted"));
        }
        T::try_from(bytes).ok()
    }

    /// Sets what has a default, if the file gives it.
    pub fn set<T>(&mut self, setting: &mut T, read: impl FnOnce(&mut Self) -> Option<T>) {
        if let Some(value) = read(self) {
            *setting = value;
        }
    }

    pub fn duration(&mut self, item: &Item) -> Option<Duration> {
        if let Value::Integer { .. } | Value::Number { .. } = item.node.value {
            return self.wrong(
                item,
                "a duration with its unit is expected, such as `10s` or `500ms`",
            );
        }
        let text = self.text(item)?;
        match parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(error) => self.refuse_value(item, format!("{} {error}", item.shown())),
        }
    }

    pub fn positive_duration(&mut self, item: &Item) -> Option<Duration> {
        let duration = self.duration(item)?;
        if duration.is_zero() {
            return self.refuse_value(item, format!("is {}; it must be longer", item.shown()));
        }
        Some(duration)
    }

    /// A text, after substitution: a value that as a whole is `${env:NAME}` or `${file:PATH}` becomes what that
    /// holds, verbatim (`node-config.md` 2).
    pub fn text(&mut self, item: &Item) -> Option<String> {
        let text = match &item.node.value {
            Value::Null => return None,
            Value::Text(text) => text,
            Value::Flag(_) | Value::Integer { .. } | Value::Number { .. } => {
                return self.wrong(item, "text is expected; put it in quotes");
            }
            Value::List(_) | Value::Map(_) => return self.wrong(item, "text is expected"),
        };
        let Some(inside) = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
        else {
            return Some(text.clone());
        };
        let substitute = match inside.split_once(':') {
            Some(("env", name)) => (self.environment)(name).ok_or_else(|| {
                format!("the environment has no variable `{name}` (or it is not Unicode)")
            }),
            Some(("file", path)) => read_substitute(Path::new(path)),
            _ => Err("only `${env:NAME}` and `${file:PATH}` are substituted".to_owned()),
        };
        substitute
            .map_err(|reason| self.refuse(item, format!("{}: {reason}", item.shown())))
            .ok()
    }

    /// Refuses a value that is none of those accepted.
    pub fn refuse_other(&mut self, item: &Item, accepted: &str) {
        self.refuse(item, format!("is {}; {accepted}", item.shown()));
    }

    /// Refuses a value for what it is.
    fn wrong<T>(&mut self, item: &Item, expected: &str) -> Option<T> {
        let substituted = matches!(&item.node.value, Value::Text(text) if text.starts_with("${"));
        // node-config.md 2: so it is in the existing node, and a file should mean the same in both.
        let why = if substituted {
            " (what is substituted is always text)"
        } else {
            ""
        };
        self.refuse_value(item, format!("is {}{why}; {expected}", item.shown()))
    }
}

/// `None` for what is no number of bytes, or too many for any.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let bytes: u64 = match unit.trim_start() {
        "" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes)
}

fn read_substitute(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| {
            file.take(SUBSTITUTE_BYTES_MAX + 1)
                .read_to_string(&mut text)
        })
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    if read as u64 > SUBSTITUTE_BYTES_MAX {
        return Err(format!(
            "the file has more than {SUBSTITUTE_BYTES_MAX} bytes"
        ));
    }
    Ok(text)
}

/// The known key that `name` is a slip of: at most two edits away, and fewer than half of its letters.
fn nearest<'known>(name: &str, known: &[&'known str]) -> Option<&'known str> {
    // Longer than any key there is; the distance is then of no interest, and its cost would be.
    if name.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (edits(name, candidate), *candidate))
        .filter(|(edits, candidate)| *edits <= 2 && edits * 2 < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, remove or replace to make one text of the other (Levenshtein's distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (removed, letter) in from.chars().enumerate() {
        let mut next = vec![removed + 1];
        for (column, (wanted, pair)) in to.iter().zip(row.windows(2)).enumerate() {
            let replaced = pair[0] + usize::from(letter != *wanted);
            next.push(replaced.min(pair[1] + 1).min(next[column] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let known = ["tls", "endpoint", "http2_only", "auth"];
        assert_eq!(nearest("endpont", &known), Some("endpoint"));
        assert_eq!(
            nearest("tsl", &known),
            None,
            "two edits of three letters are not a slip"
        );
        assert_eq!(nearest("tl", &known), Some("tls"));
        assert_eq!(nearest("http2only", &known), Some("http2_only"));
        assert_eq!(nearest("rate", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"x".repeat(10_000), &known), None);
    }

    #[test]
    fn bytes_are_a_whole_number_with_or_without_a_unit() {
        assert_eq!(parse_bytes("17"), Some(17));
        assert_eq!(parse_bytes("64 MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("3GB"), Some(3_000_000_000));
        for wrong in [
            "",
            "MiB",
            "1.5 GiB",
            "-1",
            "1 mb",
            "99999999999 GiB",
            "1 GiB x",
        ] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("", ""), 0);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("filter", "filters"), 1);
        assert_eq!(edits("", "abc"), 3);
    }
}
