//! Changes of entries, done to the text of a YAML document in block style: lines are inserted, replaced or taken away,
//! all others stay as they are.
//!
//! This is no YAML parser. It finds keys by their indentation, and gives up where it is not sure; whoever calls compares
//! what the new text says with what it should say, and writes the document anew if that differs.

use super::object::{Note, Step};

/// The text with all changes; `None` where one of them cannot be made.
pub(super) fn edited(text: &str, notes: &[Note]) -> Option<String> {
    let mut text = Text::of(text);
    for note in notes {
        match &note.value {
            Some(value) => text.set(&note.path, &note.key, value)?,
            None => text.remove(&note.path, &note.key)?,
        }
    }
    Some(text.lines.concat())
}

struct Text {
    /// With their ends.
    lines: Vec<String>,
    /// How lines end.
    end: &'static str,
}

/// Lines of a mapping: those from `begin` up to `end`, whose keys stand at `indent`.
#[derive(Clone, Copy, Debug)]
struct Block {
    begin: usize,
    end: usize,
    indent: usize,
}

impl Text {
    fn of(text: &str) -> Self {
        let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        // Whatever is inserted begins on a line of its own.
        if let Some(last) = lines.last_mut()
            && !last.ends_with('\n')
        {
            last.push_str(end);
        }
        Self { lines, end }
    }

    fn line(&self, at: usize) -> &str {
        self.lines.get(at).map_or("", |line| line.trim_end())
    }

    /// Where a line's text begins; `None` for one without any.
    fn indent(&self, at: usize) -> Option<usize> {
        let line = self.line(at);
        let text = line.trim_start_matches(' ');
        let is_text = !text.is_empty() && !text.starts_with('#') && !text.starts_with("--- ");
        is_text.then(|| line.len() - text.len())
    }

    fn whole(&self) -> Option<Block> {
        let first = (0..self.lines.len()).find(|at| self.indent(*at).is_some())?;
        Some(Block {
            begin: first,
            end: self.lines.len(),
            indent: self.indent(first)?,
        })
    }

    /// The line of a key.
    fn find(&self, block: Block, key: &str) -> Option<usize> {
        (block.begin..block.end)
            .find(|at| self.indent(*at) == Some(block.indent) && self.value(*at, key).is_some())
    }

    /// What follows a key on its line, if the line is of that key.
    fn value(&self, at: usize, key: &str) -> Option<&str> {
        let line = self.line(at).trim_start_matches(' ');
        // The first entry of an item stands behind its dash, which is taken for indentation.
        let quoted = [key.to_owned(), format!("\"{key}\""), format!("'{key}'")];
        let rest = quoted
            .iter()
            .find_map(|key| line.strip_prefix(key.as_str()))?;
        let rest = rest.trim_start().strip_prefix(':')?;
        (rest.is_empty() || rest.starts_with(' ')).then(|| bare(rest))
    }

    /// The lines that belong to the key at a line.
    fn beneath(&self, at: usize, block: Block) -> Block {
        let mut end = at + 1;
        let mut inner = None;
        for line in at + 1..block.end {
            match self.indent(line) {
                None => continue,
                // A list may stand at its key's own indentation.
                Some(indent)
                    if indent > block.indent || (indent == block.indent && self.is_item(line)) =>
                {
                    inner.get_or_insert(indent);
                    end = line + 1;
                }
                Some(_) => break,
            }
        }
        Block {
            begin: at + 1,
            end,
            indent: inner.unwrap_or(block.indent + 2),
        }
    }

    fn is_item(&self, at: usize) -> bool {
        let text = self.line(at).trim_start_matches(' ');
        text == "-" || text.starts_with("- ")
    }

    /// The mapping at a path; `Err` with the one that it should be in and the steps that are left, if it is not there.
    fn block<'a>(&mut self, path: &'a [Step]) -> Option<Result<Block, (Block, &'a [Step])>> {
        let mut block = self.whole()?;
        let mut rest = path;
        while let Some((step, left)) = rest.split_first() {
            block = match step {
                Step::Key(key) => match self.find(block, key) {
                    None => return Some(Err((block, rest))),
                    Some(at) => match self.value(at, key)? {
                        "" => self.beneath(at, block),
                        // An empty map is made to one that has lines.
                        "{}" | "null" | "~" => {
                            self.open(at)?;
                            self.beneath(at, block)
                        }
                        _ => return None,
                    },
                },
                Step::Item(place) => self.item(block, *place)?,
            };
            rest = left;
        }
        Some(Ok(block))
    }

    /// Takes an empty value from a key's line.
    fn open(&mut self, at: usize) -> Option<()> {
        let line = self.line(at);
        let key = line.get(..line.find(':')? + 1)?.to_owned();
        *self.lines.get_mut(at)? = format!("{key}{}", self.end);
        Some(())
    }

    /// An item of a list, as a mapping: its dash is made to a space, in a copy, for as long as it is looked at.
    fn item(&mut self, block: Block, place: usize) -> Option<Block> {
        let is_one = |at: &usize| self.indent(*at) == Some(block.indent) && self.is_item(*at);
        let mut items = (block.begin..block.end).filter(is_one);
        let begin = items.nth(place)?;
        let end = items.next().unwrap_or(block.end);
        let text = self.line(begin).get(block.indent + 1..)?;
        let spaces = text.len() - text.trim_start_matches(' ').len();
        (spaces > 0).then_some(Block {
            begin,
            end,
            indent: block.indent + 1 + spaces,
        })
    }

    fn set(&mut self, path: &[Step], key: &str, value: &str) -> Option<()> {
        let value = scalar(value);
        match self.block(path)? {
            Ok(block) => {
                if let Some(at) = self.find(block, key) {
                    // A value of several lines has more beneath it.
                    if self.beneath(at, block).end > at + 1 {
                        return None;
                    }
                    let line = format!("{}{key}: {value}{}", " ".repeat(block.indent), self.end);
                    *self.lines.get_mut(at)? = line;
                    return Some(());
                }
                self.insert(block.begin, &[(block.indent, format!("{key}: {value}"))]);
            }
            Err((block, left)) => {
                let keys = left.iter().map(|step| match step {
                    Step::Key(key) => Some(format!("{key}:")),
                    Step::Item(_) => None,
                });
                let mut new: Vec<_> = keys.collect::<Option<_>>()?;
                new.push(format!("{key}: {value}"));
                let new = new.into_iter().enumerate();
                let new: Vec<_> = new
                    .map(|(depth, text)| (block.indent + 2 * depth, text))
                    .collect();
                self.insert(self.place(block)?, &new);
            }
        }
        Some(())
    }

    /// Where new keys of a mapping go: after its last line.
    fn place(&self, block: Block) -> Option<usize> {
        let mut lines = (block.begin..block.end).rev();
        let last = lines.find(|at| {
            self.indent(*at)
                .is_some_and(|indent| indent >= block.indent)
        });
        // Its text may go on in lines that look like comments.
        Some(last? + 1)
    }

    fn insert(&mut self, at: usize, lines: &[(usize, String)]) {
        for (offset, (indent, text)) in lines.iter().enumerate() {
            let line = format!("{}{text}{}", " ".repeat(*indent), self.end);
            let place = (at + offset).min(self.lines.len());
            self.lines.insert(place, line);
        }
    }

    fn remove(&mut self, path: &[Step], key: &str) -> Option<()> {
        let Ok(block) = self.block(path)? else {
            return None;
        };
        let at = self.find(block, key)?;
        let end = self.beneath(at, block).end;
        self.lines.drain(at..end);
        self.tidy(path)
    }

    /// Takes away maps in which nothing is left, innermost first: those of metadata.
    fn tidy(&mut self, path: &[Step]) -> Option<()> {
        for depth in (0..path.len()).rev().take(2) {
            let (outer, step) = (path.get(..depth)?, path.get(depth)?);
            let Step::Key(key) = step else {
                return Some(());
            };
            let Ok(block) = self.block(outer)? else {
                return None;
            };
            let at = self.find(block, key)?;
            let inner = self.beneath(at, block);
            if inner.end > inner.begin {
                return Some(());
            }
            self.lines.remove(at);
        }
        Some(())
    }
}

/// A value without the comment behind it.
fn bare(rest: &str) -> &str {
    let rest = rest.trim();
    match rest.split_once('#') {
        Some(("", _)) => "",
        Some((value, _)) if value.ends_with(' ') => value.trim(),
        _ => rest,
    }
}

/// Text as YAML has it: quoted, unless it can be nothing else.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        );
    if is_plain {
        return text.to_owned();
    }
    // JSON's strings are YAML's.
    serde_json::Value::from(text).to_string()
}
