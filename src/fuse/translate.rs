//! The tree's words in fuser's types.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyXattr};

use crate::tree::{Attributes, Kind};

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::File => FileType::RegularFile,
    }
}

pub(super) fn attributes(attributes: &Attributes) -> FileAttr {
    let time = SystemTime::from(attributes.time);
    FileAttr {
        ino: INodeNo(attributes.inode.0),
        size: attributes.size_bytes,
        blocks: attributes.size_bytes.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers getxattr or listxattr: a size of 0 asks how long the answer is (xattr(7)).
pub(super) fn extended(value: &[u8], size: u32, reply: ReplyXattr) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(length);
    } else if length > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
