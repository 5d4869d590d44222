//! `linkerd install`: what an API server needs to know before it can have objects of the mesh.

use crate::outcome::{Failure, Outcome};
use std::io::{self, Write as _};

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The definitions of the mesh's kinds, for: linkerd install --crds | kubectl apply --server-side -f -
    #[arg(long, required = true)]
    crds: bool,
}

/// Prints the definitions, each a document of YAML.
pub(crate) fn run(_: &Flags) -> Result<Outcome, Failure> {
    let mut text = String::new();
    for definition in linkerd_policy::crd::definitions() {
        let document = serde_norway::to_string(&definition)
            .map_err(|error| Failure::new(format!("a definition cannot be written: {error}")))?;
        text.push_str("---\n");
        text.push_str(&document);
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has had enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Good),
        Err(error) => Err(Failure::new(format!("cannot write: {error}"))),
        Ok(()) => Ok(Outcome::Good),
    }
}
