//! A directory of manifests as the source of the index.
//!
//! Every read takes the whole directory. What is wrong is reported by file, document and field and takes nothing else
//! down: an object whose new version cannot be read keeps its last good one, for as long as some document is about it. A
//! broken file of an overlay does not bring the version below it into force.

use linkerd_policy::{
    index::{Cluster, Index},
    manifest::{self, ManifestError},
    resource::{Key, Resource},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Most files that are read from a directory.
pub const MAX_FILES: usize = 10_000;
/// Largest file, in bytes.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// All files of one reading together, in bytes.
pub const MAX_TOTAL_BYTES: u64 = 128 * 1024 * 1024;
/// How deep directories may lie in each other.
const MAX_DEPTH: usize = 16;
/// Most directories that are read.
const MAX_DIRECTORIES: usize = 10_000;

/// Something that is wrong with the manifests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The document in it, from 0; absent when the whole file cannot be read.
    pub document: Option<usize>,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// What it is about, as far as it is known.
    pub object: Option<String>,
    /// The field, as a path.
    pub field: String,
    /// What is wrong, and the fix.
    pub reason: String,
    /// An earlier version of the object is still in force.
    pub kept: bool,
}

/// One reading of the directories.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every good object and where it stands.
    pub objects: BTreeMap<Key, (PathBuf, Resource)>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Files that were read.
    pub files: usize,
}

/// Reads directories; objects of a later one replace those of the same name in earlier ones.
pub fn read(directories: &[PathBuf]) -> Loaded {
    read_all(directories).0
}

/// What was read, what the documents that cannot be used are about, and which files are empty.
fn read_all(directories: &[PathBuf]) -> (Loaded, About, Vec<PathBuf>) {
    let mut empty = Vec::new();
    let mut loaded = Loaded::default();
    let mut about = About::new();
    let mut left = MAX_TOTAL_BYTES;
    for directory in directories {
        let mut layer = BTreeMap::new();
        for file in files(directory, &mut loaded.problems) {
            loaded.files += 1;
            match read_text(&file, &mut left) {
                Ok(text) => {
                    if text.trim().is_empty() {
                        empty.push(file.clone());
                    }
                    read_documents(&file, &text, &mut layer, &mut loaded.problems, &mut about);
                }
                Err(error) => loaded
                    .problems
                    .push(Problem::of_file(&file, error.to_string())),
            }
        }
        loaded.objects.extend(layer);
    }
    (loaded, about, empty)
}

/// What documents that cannot be used are about, so that their objects' last good versions can be found.
type About = HashMap<usize, ManifestError>;

fn read_documents(
    file: &Path,
    text: &str,
    layer: &mut BTreeMap<Key, (PathBuf, Resource)>,
    problems: &mut Vec<Problem>,
    about: &mut About,
) {
    for document in manifest::parse(text) {
        match document {
            Ok(document) => {
                let key = document.resource.key();
                if let Some((first, _)) = layer.get(&key) {
                    let first = first.display();
                    problems.push(Problem {
                        document: Some(document.index),
                        object: Some(key.to_string()),
                        field: "metadata.name".into(),
                        ..Problem::of_file(
                            file,
                            format!("{key} stands in {first} too, and that one is used: remove one of them"),
                        )
                    });
                } else {
                    layer.insert(key, (file.to_owned(), document.resource));
                }
            }
            Err(error) => {
                about.insert(problems.len(), error.clone());
                problems.push(Problem::of_document(file, &error));
            }
        }
    }
}

/// The text of a file, if it is one and not too long; `left` is what all files together may still have.
fn read_text(file: &Path, left: &mut u64) -> io::Result<String> {
    let metadata = fs::metadata(file)?;
    // A named pipe would be waited for until somebody writes to it.
    if !metadata.is_file() {
        return Err(io::Error::other(
            "no regular file: only those are read; move it away",
        ));
    }
    let length = metadata.len();
    if length > MAX_BYTES {
        let text = format!("{length} bytes: more than {MAX_BYTES} are not read; split the file");
        return Err(io::Error::other(text));
    }
    let Some(rest) = left.checked_sub(length) else {
        let text = format!(
            "not read: all files together have more than {MAX_TOTAL_BYTES} bytes; take some away"
        );
        return Err(io::Error::other(text));
    };
    *left = rest;
    let mut text = String::new();
    // It may have grown since; a whole file is read, or none of it.
    let bytes = fs::File::open(file)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(bytes).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(io::Error::other("it grew while it was read"));
    }
    Ok(text)
}

/// The manifest files below a directory, in order. Each directory counts once, however many links lead to it.
fn files(directory: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![(directory.to_owned(), 0)];
    while let Some((folder, depth)) = left.pop() {
        let entries = fs::canonicalize(&folder).and_then(|real| {
            let is_new = seen.insert(real);
            is_new.then(|| fs::read_dir(&folder)).transpose()
        });
        let entries = match entries {
            Ok(Some(entries)) => entries,
            Ok(None) => continue,
            Err(error) => {
                problems.push(Problem::of_file(&folder, error.to_string()));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    problems.push(Problem::of_file(&folder, error.to_string()));
                    continue;
                }
            };
            let path = entry.path();
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            if is_hidden {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH && seen.len() + left.len() < MAX_DIRECTORIES {
                    left.push((path, depth + 1));
                } else {
                    let text = format!(
                        "not read: directories lie more than {MAX_DEPTH} deep, or are more than {MAX_DIRECTORIES}"
                    );
                    problems.push(Problem::of_file(&path, text));
                }
            } else if matches!(
                path.extension().and_then(|extension| extension.to_str()),
                Some("yaml" | "yml" | "json")
            ) {
                found.push(path);
            }
        }
    }
    found.sort();
    if found.len() > MAX_FILES {
        let text = format!("{} files: only the first {MAX_FILES} are read", found.len());
        problems.push(Problem::of_file(directory, text));
        found.truncate(MAX_FILES);
    }
    found
}

/// What the file system says about every manifest file: whether reading them again would show something new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<(PathBuf, Option<[i64; 4]>)>);

impl Stamp {
    pub(crate) fn of(directories: &[PathBuf]) -> Self {
        let mut problems = Vec::new();
        let all = directories.iter().flat_map(|directory| {
            let files = files(directory, &mut problems);
            files.into_iter().map(|file| {
                let metadata = fs::metadata(&file).ok();
                let stamp = metadata.map(|m| {
                    // Only compared, never computed with.
                    [
                        m.mtime(),
                        m.mtime_nsec(),
                        m.size().cast_signed(),
                        m.ino().cast_signed(),
                    ]
                });
                (file, stamp)
            })
        });
        let mut all: Vec<_> = all.collect();
        // A directory that cannot be read any more is news too.
        all.extend(
            problems
                .into_iter()
                .map(|problem| (problem.file.into(), None)),
        );
        Self(all)
    }
}

impl Problem {
    fn of_file(file: &Path, reason: String) -> Self {
        Self {
            file: file.display().to_string(),
            document: None,
            line: None,
            object: None,
            field: String::new(),
            reason,
            kept: false,
        }
    }

    fn of_document(file: &Path, error: &ManifestError) -> Self {
        let name = error.name.as_deref().unwrap_or("?");
        Self {
            document: Some(error.document),
            line: Some(error.line),
            object: error.kind.as_ref().map(|kind| format!("{kind} {name}")),
            field: error.field.clone(),
            ..Self::of_file(file, error.reason.clone())
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, " (document {document})")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)?;
        if self.kept {
            write!(f, "; the last good version stays")
        } else {
            Ok(())
        }
    }
}

/// A version of everything that the directories say.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each change.
    pub version: u64,
    /// What the good objects mean.
    pub index: Index,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// What holds before anything was read.
    pub(crate) fn empty(cluster: &Cluster) -> Self {
        Self {
            version: 0,
            index: Index::new(cluster.clone()),
            problems: Vec::new(),
        }
    }
}

/// The directories, read again and again, with the last good version of each object.
#[derive(Debug)]
pub struct Source {
    directories: Vec<PathBuf>,
    /// Of what is good: what does not change in a reading stays as it is, and with it the answers made of it.
    index: Index,
    good: BTreeMap<Key, (PathBuf, Resource)>,
    problems: Vec<Problem>,
    version: u64,
}

impl Source {
    /// A source that has read nothing yet.
    pub fn new(directories: Vec<PathBuf>, cluster: Cluster) -> Self {
        Self {
            directories,
            index: Index::new(cluster),
            good: BTreeMap::new(),
            problems: Vec::new(),
            version: 0,
        }
    }

    /// Whether of two files with the same object the first one counts: that of a later directory, and in one directory that
    /// which is read first.
    fn is_over(&self, file: &Path, other: &Path) -> bool {
        let layer = |file: &Path| {
            let mut layers = self.directories.iter();
            layers.rposition(|directory| file.starts_with(directory))
        };
        match layer(file).cmp(&layer(other)) {
            std::cmp::Ordering::Equal => file < other,
            order => order.is_gt(),
        }
    }

    /// Reads the directories. Gives a snapshot if anything changed since the last reading.
    pub fn refresh(&mut self) -> Option<Snapshot> {
        let (mut loaded, about, empty) = read_all(&self.directories);
        // Whoever writes a file empties it first. To take it for a deletion would open, for a moment, what it closes.
        for file in empty {
            if self.good.values().any(|(from, _)| *from == file) {
                let text = "is empty: write it, or remove the file if its objects are to go";
                loaded
                    .problems
                    .push(Problem::of_file(&file, text.to_owned()));
            }
        }
        for (number, problem) in loaded.problems.iter_mut().enumerate() {
            for (key, good) in &self.good {
                let is_its_file = good.0.starts_with(&problem.file);
                let (is_about, is_named) = match about.get(&number) {
                    Some(error) if error.kind.is_some() && error.name.is_some() => {
                        (error.is_about(key), true)
                    }
                    // It cannot be told what it would have said: everything from that file may have been meant.
                    Some(_) => (is_its_file, false),
                    None => (is_its_file && problem.document.is_none(), false),
                };
                let is_lost = match loaded.objects.get(key) {
                    None => true,
                    // Another manifest of the object must not come into force because the one over it is broken.
                    Some((file, _)) if *file == good.0 => is_named,
                    Some((file, _)) => is_its_file && self.is_over(&good.0, file),
                };
                if is_about && is_lost {
                    loaded.objects.insert(key.clone(), good.clone());
                    problem.kept = true;
                }
            }
        }
        if self.version > 0 && loaded.objects == self.good && loaded.problems == self.problems {
            return None;
        }
        self.version += 1;
        self.take(loaded.objects);
        self.problems = loaded.problems;
        Some(Snapshot {
            version: self.version,
            index: self.index.clone(),
            problems: self.problems.clone(),
        })
    }

    /// Takes over what is good now.
    fn take(&mut self, now: BTreeMap<Key, (PathBuf, Resource)>) {
        let before = std::mem::replace(&mut self.good, now);
        for key in before.keys().filter(|key| !self.good.contains_key(key)) {
            self.index.delete(key);
        }
        for (key, (_, resource)) in &self.good {
            let known = before.get(key).map(|(_, known)| known);
            if known != Some(resource) {
                self.index.apply(resource.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
