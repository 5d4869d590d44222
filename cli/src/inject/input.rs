//! Manifests as they come: files, folders, standard input; a stream of documents in each.

use crate::outcome::Failure;
use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Largest input.
const MAX_INPUT: u64 = 64 * 1024 * 1024;

/// The text of a file.
pub(super) struct Text {
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads what is named; folders in the order of their names.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            texts.push(text("standard input", io::stdin().lock())?);
            continue;
        }
        let mut files = Vec::new();
        find(path, &mut files).map_err(|error| failed(path, &error))?;
        for file in files {
            let open = fs::File::open(&file).map_err(|error| failed(&file, &error))?;
            texts.push(text(&file.display().to_string(), open)?);
        }
    }
    Ok(texts)
}

fn text(name: &str, from: impl io::Read) -> Result<Text, Failure> {
    let mut text = String::new();
    let read = from.take(MAX_INPUT + 1).read_to_string(&mut text);
    let read = read.map_err(|error| failed(Path::new(name), &error))?;
    if read as u64 > MAX_INPUT {
        return Err(Failure::new(format!(
            "{name}: longer than {MAX_INPUT} bytes"
        )));
    }
    Ok(Text {
        name: name.to_owned(),
        text,
    })
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

/// The path itself, or the manifests beneath it.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries: io::Result<Vec<_>> = fs::read_dir(path)?.collect();
    let mut entries: Vec<_> = entries?.into_iter().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        let kind = entry.extension().and_then(|kind| kind.to_str());
        if entry.is_dir() || matches!(kind, Some("yaml" | "yml" | "json")) {
            find(&entry, files)?;
        }
    }
    Ok(())
}

/// A part of a stream.
pub(super) enum Document<'a> {
    /// A document.
    Text(&'a str),
    /// The line before one.
    Between(&'a str),
}

/// The documents of a stream, and what is between them.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut all = Vec::new();
    let (mut begin, mut at) = (0, 0);
    let take = |all: &mut Vec<_>, begin: usize, end: usize| {
        let part = text.get(begin..end).unwrap_or_default();
        if !part.is_empty() {
            all.push(Document::Text(part));
        }
    };
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        let marker = line.trim_end();
        // A document may begin on the line of its marker; such a line belongs to it.
        if matches!(marker, "---" | "...") || marker.starts_with("--- #") {
            take(&mut all, begin, at);
            all.push(Document::Between(line));
            begin = end;
        } else if marker.starts_with("--- ") {
            take(&mut all, begin, at);
            begin = at;
        }
        at = end;
    }
    take(&mut all, begin, at);
    all
}

/// Makes place for the next file's documents.
pub(super) fn separate(output: &mut String) {
    if output.is_empty() {
        return;
    }
    if !output.ends_with('\n') {
        output.push('\n');
    }
    output.push_str("---\n");
}
