//! What the helper can be told to do, and how that is written on the socket.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::model::notice::{Alias, NOTICE_DIRECTORY};

/// The longest path on the socket, in bytes: PATH_MAX.
const PATH_BYTES_MAX: usize = 4096;

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Makes the directory's watchers see that a link in it was replaced (MOVED_TO).
    Swap {
        /// The directory, relative to the root of the tree, as names in the tree are written.
        path: PathBuf,
        /// The directory's inode number.
        directory: u64,
        /// The link's name: `current`, `previous` or `next`.
        link: String,
    },
    /// Makes the watchers of a file's or link's inode see that it changed (ATTRIB).
    Touch {
        /// The inode number.
        inode: u64,
    },
    /// As [`Command::Touch`], for a directory, which a kernel inode binds to its one name.
    TouchDirectory {
        /// The directory, relative to the root of the tree; empty for the root itself.
        path: PathBuf,
    },
}

/// An order as it goes over a socket: two paths, each as a length of two bytes and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order(Vec<u8>);

impl Order {
    /// The longest, in bytes.
    pub const BYTES_MAX: usize = 2 * (2 + PATH_BYTES_MAX);

    /// Takes an order that came over a socket. Where it leads is for the helper and its kernel to judge.
    #[must_use]
    pub fn received(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = bytes.as_slice();
        (read_step(&mut rest).is_ok_and(|step| step.is_some()) && rest.is_empty()).then_some(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Command> for Order {
    fn from(command: &Command) -> Self {
        Self(command.encode())
    }
}

impl From<Command> for Order {
    fn from(command: Command) -> Self {
        Self(command.encode())
    }
}

/// What an order comes to: system calls on paths relative to the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rename { from: PathBuf, to: PathBuf },
    Touch { path: PathBuf },
}

impl Command {
    /// The two paths, each as a length of two bytes and its bytes; an empty second one means a touch.
    fn encode(&self) -> Vec<u8> {
        let (first, second) = match self.step() {
            Step::Rename { from, to } => (from, to),
            Step::Touch { path } => (path, PathBuf::new()),
        };
        let mut message = Vec::new();
        for path in [first, second] {
            let bytes = path.as_os_str().as_encoded_bytes();
            // A longer path could not be looked up either; cut short it is refused by the kernel's name lookup.
            let bytes = &bytes[..bytes.len().min(PATH_BYTES_MAX)];
            message.extend(u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
            message.extend(bytes);
        }
        message
    }

    fn step(&self) -> Step {
        let hidden = |alias: Alias| PathBuf::from(NOTICE_DIRECTORY).join(alias.encode());
        match self {
            Self::Swap { path, directory, link } => Step::Rename {
                from: hidden(Alias::Swap { directory: *directory, link: link.clone() }),
                to: path.join(link),
            },
            Self::Touch { inode } => Step::Touch { path: hidden(Alias::Touch { inode: *inode }) },
            Self::TouchDirectory { path } if path.as_os_str().is_empty() => Step::Touch { path: ".".into() },
            Self::TouchDirectory { path } => Step::Touch { path: path.clone() },
        }
    }
}

/// Reads one order; nothing at the end of the stream.
pub(super) fn read_step(stream: &mut impl Read) -> io::Result<Option<Step>> {
    let Some(first) = read_path(stream)? else { return Ok(None) };
    let second = read_path(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some(if second.as_os_str().is_empty() {
        Step::Touch { path: first }
    } else {
        Step::Rename { from: first, to: second }
    }))
}

fn read_path(stream: &mut impl Read) -> io::Result<Option<PathBuf>> {
    let mut length = [0_u8; 2];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::from(u16::from_le_bytes(length));
    if length > PATH_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0_u8; length];
    stream.read_exact(&mut bytes)?;
    Ok(Some(PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent_one_after_the_other() {
        let swap = Command::Swap { path: "prod/a b\n".into(), directory: 31, link: "current".into() };
        let orders = [
            swap,
            Command::Touch { inode: 7 },
            Command::TouchDirectory { path: PathBuf::new() },
            Command::TouchDirectory { path: "prod".into() },
        ];
        let stream: Vec<u8> = orders.iter().flat_map(Command::encode).collect();
        let mut stream = stream.as_slice();
        for order in &orders {
            assert_eq!(read_step(&mut stream).unwrap(), Some(order.step()));
        }
        assert_eq!(read_step(&mut stream).unwrap(), None);
    }

    #[test]
    fn an_order_cut_short_is_an_error_and_one_too_long_is_not_read() {
        let message = Command::Touch { inode: 7 }.encode();
        assert!(read_step(&mut &message[..message.len() - 1]).is_err());
        assert!(read_step(&mut [0xFF, 0xFF, 0].as_slice()).is_err());
        assert!(Order::received(message.clone()).is_some());
        assert!(Order::received(message[..message.len() - 1].to_vec()).is_none());
        assert!(Order::received([message, vec![0]].concat()).is_none(), "one order and nothing behind it");
        assert!(Order::received(Vec::new()).is_none());
    }
}
