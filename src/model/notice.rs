//! The names by which the notifier's helper makes the kernel tell watchers (inotify) of a change.
//!
//! They lie in a hidden directory at the root of the tree, which exists for the helper's process alone. A name says
//! which inode it stands for, so nothing has to be remembered between the order and the lookup that it causes.

/// The hidden directory's name at the root of the tree.
pub const NOTICE_DIRECTORY: &str = ".credfs-notify";

/// A name inside the hidden directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alias {
    /// Answers a lookup with this inode itself, to be touched: its watchers see ATTRIB.
    Touch {
        /// The inode number.
        inode: u64,
    },
    /// Answers a lookup with the symbolic link that will lie in a directory under the given name, to be renamed
    /// there: the directory's watchers see MOVED_TO.
    Swap {
        /// The directory's inode number.
        directory: u64,
        /// The link's name: `current`, `previous` or `next`.
        link: String,
    },
}

impl Alias {
    /// The name: `touch-1f` or `swap-1f-current` (inode numbers in lower-case hexadecimal).
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Touch { inode } => format!("touch-{inode:x}"),
            Self::Swap { directory, link } => format!("swap-{directory:x}-{link}"),
        }
    }

    /// Reads a name back; nothing for one that [`Alias::encode`] does not write.
    #[must_use]
    pub fn decode(name: &str) -> Option<Self> {
        let alias = match name.split_once('-')? {
            ("touch", inode) => Self::Touch { inode: u64::from_str_radix(inode, 16).ok()? },
            ("swap", rest) => {
                let (directory, link) = rest.split_once('-')?;
                if link.is_empty() || link.contains('/') {
                    return None;
                }
                Self::Swap { directory: u64::from_str_radix(directory, 16).ok()?, link: link.to_owned() }
            }
            _ => return None,
        };
        // One inode has one name: no leading zero, sign or capital.
        (alias.encode() == name).then_some(alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_is_read_back_as_it_was_written() {
        let link = |link: &str| link.to_owned();
        for alias in [
            Alias::Touch { inode: 0 },
            Alias::Touch { inode: u64::MAX },
            Alias::Swap { directory: 0x1f, link: link("current") },
            Alias::Swap { directory: u64::MAX, link: link("with-hyphen") },
        ] {
            assert_eq!(Alias::decode(&alias.encode()), Some(alias));
        }
    }

    #[test]
    fn a_name_written_in_any_other_way_is_no_alias() {
        for name in
            ["", "touch", "touch-", "touch-1F", "touch-+1", "touch-01", "touch-1-", "swap-1", "swap-1-"]
        {
            assert_eq!(Alias::decode(name), None, "{name}");
        }
        assert_eq!(Alias::decode("touch-10000000000000000"), None);
        assert_eq!(Alias::decode("swap-1-a/b"), None);
    }
}
