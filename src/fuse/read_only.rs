//! Everything that writes is EROFS: administration is the command line's. The one exception is the notifier, whose
//! rename and utime change nothing and make the kernel tell its watchers.

/// The writing half of [`fuser::Filesystem`], for the adapter's one impl block.
macro_rules! refusals {
    () => {
        fn setattr(
            &self,
            request: &fuser::Request,
            inode: fuser::INodeNo,
            _mode: Option<u32>,
            _uid: Option<u32>,
            _gid: Option<u32>,
            size: Option<u64>,
            _atime: Option<fuser::TimeOrNow>,
            _mtime: Option<fuser::TimeOrNow>,
            _ctime: Option<std::time::SystemTime>,
            _handle: Option<fuser::FileHandle>,
            _crtime: Option<std::time::SystemTime>,
            _chgtime: Option<std::time::SystemTime>,
            _bkuptime: Option<std::time::SystemTime>,
            _flags: Option<fuser::BsdFileFlags>,
            reply: fuser::ReplyAttr,
        ) {
            self.guard(|| match self.acknowledge_touch(request, inode, size) {
                Some(entry) => {
                    reply.attr(&entry.attribute_lifetime, &super::translate::attributes(&entry.attributes));
                }
                None => reply.error(fuser::Errno::EROFS),
            });
        }

        fn rename(
            &self,
            request: &fuser::Request,
            parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _new_parent: fuser::INodeNo,
            _new_name: &std::ffi::OsStr,
            _flags: fuser::RenameFlags,
            reply: fuser::ReplyEmpty,
        ) {
            self.guard(|| {
                if self.acknowledge_swap(request, parent) {
                    reply.ok();
                } else {
                    reply.error(fuser::Errno::EROFS);
                }
            });
        }

        fn mknod(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _mode: u32,
            _umask: u32,
            _device: u32,
            reply: fuser::ReplyEntry,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn mkdir(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _mode: u32,
            _umask: u32,
            reply: fuser::ReplyEntry,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn unlink(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            reply: fuser::ReplyEmpty,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn rmdir(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            reply: fuser::ReplyEmpty,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn symlink(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _target: &std::path::Path,
            reply: fuser::ReplyEntry,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn link(
            &self,
            _request: &fuser::Request,
            _inode: fuser::INodeNo,
            _new_parent: fuser::INodeNo,
            _new_name: &std::ffi::OsStr,
            reply: fuser::ReplyEntry,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn create(
            &self,
            _request: &fuser::Request,
            _parent: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _mode: u32,
            _umask: u32,
            _flags: i32,
            reply: fuser::ReplyCreate,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn write(
            &self,
            _request: &fuser::Request,
            _inode: fuser::INodeNo,
            _handle: fuser::FileHandle,
            _offset: u64,
            _data: &[u8],
            _write_flags: fuser::WriteFlags,
            _flags: fuser::OpenFlags,
            _lock_owner: Option<fuser::LockOwner>,
            reply: fuser::ReplyWrite,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn setxattr(
            &self,
            _request: &fuser::Request,
            _inode: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            _value: &[u8],
            _flags: i32,
            _position: u32,
            reply: fuser::ReplyEmpty,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn removexattr(
            &self,
            _request: &fuser::Request,
            _inode: fuser::INodeNo,
            _name: &std::ffi::OsStr,
            reply: fuser::ReplyEmpty,
        ) {
            reply.error(fuser::Errno::EROFS);
        }

        fn fallocate(
            &self,
            _request: &fuser::Request,
            _inode: fuser::INodeNo,
            _handle: fuser::FileHandle,
            _offset: u64,
            _length: u64,
            _mode: i32,
            reply: fuser::ReplyEmpty,
        ) {
            reply.error(fuser::Errno::EROFS);
        }
    };
}

pub(super) use refusals;
