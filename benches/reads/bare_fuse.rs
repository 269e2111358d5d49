//! The floor for any FUSE daemon of this shape: fuser, direct I/O, three round trips for `dir/value`, no policy, no
//! audit, one constant value. With one loop and with two: the RELEASE that nobody waits for wakes the second loop, which
//! costs a single reader a switch, and is the price of not being held up by one slow request.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use credfs::sys::mount::{self, MountOptions, Mounted};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};

use crate::VALUE_BYTES;
use crate::agent::Server;

const LONG: Duration = Duration::from_secs(3600);
const FILE: u64 = 3;

/// A mounted one.
pub(crate) struct Bare {
    /// Where.
    pub(crate) mount_point: PathBuf,
    /// Its process.
    pub(crate) server: Server,
}

/// Starts this program again as the daemon and waits until it serves.
pub(crate) fn start(mount_point: &Path, loops: usize) -> Bare {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg("--serve-bare-fuse").arg(mount_point).arg(loops.to_string());
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    Bare { mount_point: mount_point.to_owned(), server: Server(child) }
}

/// Is the daemon, until its standard input is closed.
pub(crate) fn serve(mount_point: &Path, loops: usize) -> ExitCode {
    let Mounted { device, tree, handle } = mount::mount(mount_point, &MountOptions::default()).unwrap();
    drop(tree);
    let mut config = fuser::Config::default();
    config.n_threads = Some(loops);
    let session = fuser::Session::from_fd(Floor, device, fuser::SessionACL::All, config).unwrap();
    let session = session.spawn().unwrap();
    std::io::stdout().write_all(b"!").unwrap();
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    mount::unmount(&handle).unwrap();
    session.join().unwrap();
    ExitCode::SUCCESS
}

struct Floor;

fn attributes(inode: u64) -> FileAttr {
    let file = inode == FILE;
    FileAttr {
        ino: INodeNo(inode),
        size: if file { VALUE_BYTES as u64 } else { 0 },
        blocks: 1,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if file { FileType::RegularFile } else { FileType::Directory },
        perm: if file { 0o444 } else { 0o555 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl fuser::Filesystem for Floor {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS).ok();
        Ok(())
    }
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let generation = Generation(0);
        match (parent.0, name.to_str()) {
            (1, Some("dir")) => reply.entry_with_ttls(&LONG, &LONG, &attributes(2), generation),
            (2, Some("value")) => {
                reply.entry_with_ttls(&LONG, &Duration::ZERO, &attributes(FILE), generation)
            }
            _ => reply.error(Errno::ENOENT),
        }
    }
    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &attributes(inode.0));
    }
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
    }
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let value = [b'x'; VALUE_BYTES];
        let from = usize::try_from(offset).unwrap_or(VALUE_BYTES).min(VALUE_BYTES);
        let length = (size as usize).min(VALUE_BYTES - from);
        reply.data(&value[from..from + length]);
    }
}
