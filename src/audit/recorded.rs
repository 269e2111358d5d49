//! A record read back: what a successor process needs of it.

use serde::Deserialize;

use crate::model::{FieldName, Outcome, SecretPath, Stage, Version};

/// What a record said that was about a value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recorded {
    /// What came of it.
    pub outcome: Outcome,
    /// The secret's path in the tree.
    pub secret: Option<SecretPath>,
    /// The field.
    pub field: Option<FieldName>,
    /// The version.
    pub version: Option<Version>,
    /// The stage by which it was reached.
    pub stage: Option<Stage>,
}
