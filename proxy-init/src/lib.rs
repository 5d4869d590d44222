//! What makes the kernel redirect a Pod's traffic to its sidecar: rules of iptables, for both families.
//!
//! | module | what |
//! |---|---|
//! | [`flags`] | the command line |
//! | [`rules`] | which rules, as text. Pure |
//! | [`firewall`] | the programs that take them: which of them works, what is there, all of it or nothing |

pub mod firewall;
pub mod flags;
pub mod rules;
