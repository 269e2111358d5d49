//! The number by which the tree knows one field of one version.

use serde::{Deserialize, Serialize};

/// Numbers one (secret, version, field) of one store for ever: a store hands each out once, in rising order, and
/// can say later what it stood for. 28 bits, so that a store's slot, the number and a uid fit one inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldNode(u32);

impl FieldNode {
    /// The largest number there is.
    pub const MAX: u32 = (1 << 28) - 1;

    /// The node of a number; `None` above [`Self::MAX`] and for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number > Self::MAX { None } else { Some(Self(number)) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}
