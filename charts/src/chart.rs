//! The charts' files, in the binary.

use include_dir::{Dir, include_dir};
use serde_json::Value;

static CRDS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/linkerd-crds");
static CONTROL_PLANE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/linkerd-control-plane");

/// A chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chart {
    /// The custom resource definitions.
    Crds,
    /// All else.
    ControlPlane,
}

impl Chart {
    /// Both, in the order of an installation.
    pub const ALL: [Self; 2] = [Self::Crds, Self::ControlPlane];

    /// Its name, and that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crds => "linkerd-crds",
            Self::ControlPlane => "linkerd-control-plane",
        }
    }

    /// A file of it; empty if there is none of this name, which a test excludes.
    pub fn file(self, name: &str) -> &'static str {
        self.folder()
            .get_file(name)
            .and_then(|file| file.contents_utf8())
            .unwrap_or_default()
    }

    /// `Chart.yaml`.
    pub fn metadata(self) -> Value {
        serde_norway::from_str(self.file("Chart.yaml")).unwrap_or_default()
    }

    /// Names and texts of its templates, by name.
    pub(crate) fn templates(self) -> Vec<(&'static str, &'static str)> {
        let files = self.folder().get_dir("templates");
        let files = files.into_iter().flat_map(Dir::files);
        let mut all: Vec<_> = files
            .filter_map(|file| Some((file.path().to_str()?, file.contents_utf8()?)))
            .collect();
        all.sort_unstable();
        all
    }

    fn folder(self) -> &'static Dir<'static> {
        match self {
            Self::Crds => &CRDS,
            Self::ControlPlane => &CONTROL_PLANE,
        }
    }
}
