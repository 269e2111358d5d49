//! What a process leaves for its successor: open files with their bytes, and what the kernel's inode numbers stand for.
//!
//! Everything here can also be found out from the numbers themselves, the store and the audit log. What is left keeps it
//! true when the store is away, keeps the opener the same person, and costs nothing at the next read. It holds values, so it
//! leaves this process sealed only (`store::Envelope`).

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::caller::Witness;
use crate::model::{FieldName, SecretBytes, SecretPath, Stage, StageSet, Standing, Version};

use super::Tree;
use super::handles::Handle;
use super::inode::Inode;
use super::node::{FieldPlace, Node};

/// Names this way of writing; a successor that reads another leaves it unread.
const FORMAT: &[u8; 8] = b"credfsL1";
/// Most that is left, in bytes. Files past it are left to the store and the audit log.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// An open file of the process before us.
pub(super) struct LeftHandle {
    place: FieldPlace,
    held: StageSet,
    is_revoked: bool,
    opener: Option<Witness>,
    readers: Vec<Witness>,
    value: SecretBytes,
}

/// It could not be read: of another version, or cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the process before left is of another version")]
pub struct UnreadableLeft;

impl Tree {
    /// Writes down what a successor goes on with. It holds values. What inode numbers stand for is added where
    /// `with_names` says so: there may be very many, and all of it can be found again.
    #[must_use]
    pub fn leave(&self, with_names: bool) -> Zeroizing<Vec<u8>> {
        let handles = self.handles.all();
        let left = self.left.lock();
        let values: usize = handles.iter().map(|(_, handle)| handle.released.bytes().len()).sum::<usize>()
            + left.values().map(|handle| handle.value.len()).sum::<usize>();
        // Room for all of it at once: what a growing buffer leaves behind is not wiped.
        let room = values + (handles.len() + left.len()) * ENTRY_BYTES + 4096;
        let mut writer = Writer(Zeroizing::new(Vec::with_capacity(room.min(BYTES_MAX))));
        writer.0.extend_from_slice(FORMAT);
        for (number, handle) in handles {
            let readers = handle.recorded_readers();
            let released = handle.released.bytes();
            let head = Head {
                number,
                place: &handle.place,
                held: handle.standing.held,
                is_revoked: handle.is_revoked(),
                opener: handle.opener,
                readers: &readers,
            };
            writer.handle(&head, released);
        }
        for (number, handle) in left.iter() {
            let LeftHandle { place, held, is_revoked, opener, readers, value } = handle;
            let (number, held, is_revoked, opener) = (*number, *held, *is_revoked, *opener);
            let head = Head { number, place, held, is_revoked, opener, readers };
            writer.handle(&head, self.gate().bytes_of_left(value));
        }
        drop(left);
        if with_names {
            self.live.visit(|node, lookups| writer.node(node, lookups));
        }
        writer.0
    }

    /// Goes on with what the process before us left, as [`Self::leave`] wrote it.
    ///
    /// # Errors
    /// [`UnreadableLeft`]; what could be read until then is kept.
    pub fn take_over(&self, bytes: &[u8]) -> Result<(), UnreadableLeft> {
        let mut reader = Reader(bytes.strip_prefix(FORMAT).ok_or(UnreadableLeft)?);
        let mut left = self.left.lock();
        while !reader.0.is_empty() {
            match reader.byte().ok_or(UnreadableLeft)? {
                HANDLE => {
                    let (number, handle) = reader.handle().ok_or(UnreadableLeft)?;
                    left.insert(number, handle);
                }
                NODE => {
                    let (node, lookups) = reader.node().ok_or(UnreadableLeft)?;
                    self.live.restore(&node, lookups);
                }
                _ => return Err(UnreadableLeft),
            }
        }
        Ok(())
    }

    /// Opens again what the process before us left under this number: for the same opener, with the same bytes. The
    /// record that released it must be in the log.
    pub(super) fn open_left(&self, number: u64) -> Option<Arc<Handle>> {
        let LeftHandle { place, held, is_revoked, opener, readers, value } =
            self.left.lock().remove(&number)?;
        let standing = Standing { held, lost: None };
        let released = self.gate().released_before(
            number,
            &place.secret,
            place.version,
            &place.field,
            standing,
            value,
        )?;
        let (secret, version) = (place.secret.clone(), place.version);
        let handle = Handle::new(place, standing, released, opener);
        for reader in readers {
            handle.recorded(reader);
        }
        if is_revoked {
            handle.revoke();
        }
        let handle = self.handles.adopt(number, handle);
        if self.is_revoked(&secret, version) {
            self.handles.revoke(&secret, version);
        }
        Some(handle)
    }
}

const HANDLE: u8 = 1;
const NODE: u8 = 2;
/// What an open file takes beside its value and its names, about.
const ENTRY_BYTES: usize = 1024;

struct Head<'a> {
    number: u64,
    place: &'a FieldPlace,
    held: StageSet,
    is_revoked: bool,
    opener: Option<Witness>,
    readers: &'a [Witness],
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn handle(&mut self, head: &Head<'_>, value: &[u8]) {
        let names = head.place.secret.as_str().len() + head.place.field.as_str().len();
        let size = value.len() + names + head.readers.len() * Witness::BYTES + ENTRY_BYTES;
        // Never past the room that was taken at the beginning.
        if self.0.len() + size > self.0.capacity().min(BYTES_MAX) {
            return;
        }
        self.0.push(HANDLE);
        self.0.extend(head.number.to_le_bytes());
        self.place(head.place);
        self.0.push(bits(head.held));
        self.0.push(u8::from(head.is_revoked));
        let witnesses = head.opener.iter().chain(head.readers);
        self.0.push(u8::from(head.opener.is_some()));
        self.0.push(u8::try_from(head.readers.len()).unwrap_or(0));
        for witness in witnesses {
            self.0.extend(witness.to_bytes());
        }
        self.bytes(value);
    }

    fn place(&mut self, place: &FieldPlace) {
        self.bytes(place.secret.as_str().as_bytes());
        self.0.extend(place.version.get().to_le_bytes());
        self.bytes(place.field.as_str().as_bytes());
        self.0.extend(place.inode.0.to_le_bytes());
    }

    fn node(&mut self, node: &Node, lookups: u64) {
        if self.0.len() + ENTRY_BYTES * 8 > BYTES_MAX {
            return;
        }
        if self.0.capacity() - self.0.len() < ENTRY_BYTES * 8 {
            // Names hold no value, but what lies before them may: moved by hand, and wiped where it was.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * self.0.capacity() + ENTRY_BYTES * 8));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.push(NODE);
        self.0.extend(lookups.to_le_bytes());
        match node {
            Node::Directory(path) => {
                self.0.push(0);
                self.bytes(path.as_bytes());
            }
            Node::Versions(secret) => {
                self.0.push(1);
                self.bytes(secret.as_str().as_bytes());
            }
            Node::Version(secret, version) => {
                self.0.push(2);
                self.bytes(secret.as_str().as_bytes());
                self.0.extend(version.get().to_le_bytes());
            }
            Node::Link(secret, stage, version) => {
                self.0.push(3);
                self.bytes(secret.as_str().as_bytes());
                self.0.push(bits(StageSet::of(*stage)));
                self.0.extend(version.get().to_le_bytes());
            }
            Node::Field(place) => {
                self.0.push(4);
                self.place(place);
            }
            Node::View(path, place) => {
                self.0.push(5);
                self.bytes(path.as_bytes());
                self.place(place);
            }
            Node::Notices => self.0.push(6),
        }
    }
}

fn bits(stages: StageSet) -> u8 {
    Stage::ALL.into_iter().enumerate().map(|(at, stage)| u8::from(stages.contains(stage)) << at).sum()
}

fn stages(bits: u8) -> StageSet {
    let named = Stage::ALL.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    named.fold(StageSet::EMPTY, |set, (_, stage)| set.with(stage))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn secret(&mut self) -> Option<SecretPath> {
        SecretPath::from_store(self.text()?).ok()
    }

    fn version(&mut self) -> Option<Version> {
        Version::new(u32::from_le_bytes(self.array()?))
    }

    fn place(&mut self) -> Option<FieldPlace> {
        let secret = self.secret()?;
        let version = self.version()?;
        let field = FieldName::from_store(self.text()?).ok()?;
        let inode = Inode(u64::from_le_bytes(self.array()?));
        Some(FieldPlace { secret, version, field, inode })
    }

    fn handle(&mut self) -> Option<(u64, LeftHandle)> {
        let number = u64::from_le_bytes(self.array()?);
        let place = self.place()?;
        let held = stages(self.byte()?);
        let is_revoked = self.byte()? != 0;
        let has_opener = self.byte()? != 0;
        let readers = self.byte()?;
        let mut witness = || self.array().map(|bytes| Witness::from_bytes(&bytes));
        let opener = if has_opener { Some(witness()?) } else { None };
        let readers = (0..readers).map(|_| witness()).collect::<Option<Vec<_>>>()?;
        let value = self.bytes()?;
        let value = SecretBytes::filled_by(value.len(), |place| {
            place.copy_from_slice(value);
            Ok::<(), ()>(())
        })
        .ok()?;
        Some((number, LeftHandle { place, held, is_revoked, opener, readers, value }))
    }

    fn node(&mut self) -> Option<(Node, u64)> {
        let lookups = u64::from_le_bytes(self.array()?);
        let node = match self.byte()? {
            0 => Node::Directory(self.text()?.into()),
            1 => Node::Versions(self.secret()?),
            2 => Node::Version(self.secret()?, self.version()?),
            3 => {
                let secret = self.secret()?;
                let stage = stages(self.byte()?).iter().next()?;
                Node::Link(secret, stage, self.version()?)
            }
            4 => Node::Field(self.place()?),
            5 => Node::View(self.text()?.into(), self.place()?),
            6 => Node::Notices,
            _ => return None,
        };
        Some((node, lookups))
    }
}
