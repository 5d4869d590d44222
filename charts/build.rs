//! The charts' folders are part of the library: a file that comes or goes is noticed.

fn main() {
    println!("cargo:rerun-if-changed=linkerd-crds");
    println!("cargo:rerun-if-changed=linkerd-control-plane");
}
