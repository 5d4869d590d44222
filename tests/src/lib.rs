//! End-to-end and conformance tests live in `tests/tests`; this library is empty so that they have a package.
