//! The words every other room speaks: paths, fields, versions, stages, secret bytes, callers' facts,
//! outcomes. It may touch nothing but locked memory (`sys`): no file, no clock, no network.

mod consumer;
mod encoding;
mod facts;
mod metadata;
mod name;
mod node;
pub mod notice;
mod outcome;
mod secret;
mod stage;
mod time;
mod versions;

pub use consumer::{Consumer, Sharing};
pub use encoding::{decode_name, encode_name, encode_name_apart};
pub use facts::{Executable, Facts, Session, Sha256Digest, Unknown};
pub use metadata::{FieldInfo, Impact, Ownership, Secret, State, VersionInfo};
pub use name::{
    FIELD_BYTES_MAX, FieldName, NAME_BYTES_MAX, NameFault, PATH_BYTES_MAX, RESERVED_NAMES, SecretPath,
    is_reserved,
};
pub use node::FieldNode;
pub use outcome::{Operation, Outcome, Reason};
pub use secret::{SecretBytes, SecretFull, VALUE_BYTES_MAX};
pub use stage::{Stage, StageSet, Standing, Version};
pub use time::{UnixTime, format_span, parse_span};
pub use versions::{Difference, Versions};
