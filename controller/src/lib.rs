//! The control plane: policy, identity and destination over gRPC, fed by a directory of Kubernetes-shaped manifests or
//! by a Kubernetes API server.
//!
//! Indexes are pure (`linkerd_policy::index`): the source turns files into a whole new index, which is swapped at once;
//! the services stream what changes of it and know nothing of files.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | the directory: what is good, what is wrong and where, the last good version of each object |
//! | [`kubernetes`] | the API server: watches, the last good version of each object, token reviews |
//! | `watch` | follows the files: a new snapshot when they change |
//! | `issuer` | the authority of the moment: a new issuer and new trust anchors while everything runs |
//! | `notices`, `events` | what becomes of the issuer and of Pods, for `kubectl describe` |
//! | `listen` | connections: plaintext on this host, mutual TLS elsewhere |
//! | [`authority`] | the CA and the key of tokens, made on first use or brought by the user |
//! | [`token`] | workload tokens: signed JWTs |
//! | `grpc` | the three services |
//! | `background` | what runs beside them: writing to the API server, asking what may be done there, the linter |
//! | [`admission`] | the validating webhook |
//! | [`certificates`] | what webhooks are served with: brought, or made and kept |
//! | [`inject`] | the sidecar of a Pod: whether, what is added, as a JSON patch |
//! | [`injector`] | the mutating webhook, which asks it |
//! | `web` | small HTTP servers, of the two above and below |
//! | `admin` | health, metrics, status, policy and explanations for any workload |

pub mod admission;
pub mod authority;
pub mod certificates;
pub mod inject;
pub mod injector;
pub mod kubernetes;
pub mod source;
pub mod token;

mod admin;
mod background;
mod config;
mod events;
mod grpc;
mod issuer;
mod listen;
mod metrics;
mod notices;
mod serve;
mod watch;
mod web;

pub use config::{Config, Flags, Role};
pub use grpc::hints::{Hints, Http2Params, TransportMode};
pub use serve::{Error, Listeners, main, run, run_on};
