//! What tests of the command share.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A copy of the shop that a test may change.
pub(crate) fn shop(folder: &Path) -> PathBuf {
    let shop = folder.join("shop");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let copied = Command::new("cp").arg("-r").arg(root).arg(&shop).status();
    assert!(copied.unwrap().success());
    shop
}
