//! An audit log on a file system that stops answering: opens are EIO within 50 ms, metadata goes on, and it all
//! comes back by itself.

use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use credfs::model::Stage as Staged;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::stage::Stage;

/// Files in memory, in one directory, whose writes can be held.
#[derive(Default)]
struct Disk {
    files: Mutex<Vec<(String, Vec<u8>)>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }

    fn wait(&self) {
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.released.wait(held).unwrap();
        }
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let files = self.files.lock().unwrap();
        let size =
            usize::try_from(inode).ok().and_then(|at| files.get(at.checked_sub(2)?)).map(|file| file.1.len());
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: INodeNo(inode),
            size: size.unwrap_or(0) as u64,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if inode == 1 { FileType::Directory } else { FileType::RegularFile },
            perm: if inode == 1 { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Lets every write go on when it is dropped: a test that fails must not leave a process that waits for itself.
struct LetGo(Arc<Disk>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

struct Serving(Arc<Disk>);

impl fuser::Filesystem for Serving {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = self.0.files.lock().unwrap().iter().position(|file| *file.0 == *name);
        match at {
            Some(at) => {
                let attributes = self.0.attributes(at as u64 + 2);
                reply.entry(&Duration::ZERO, &attributes, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }
    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.0.attributes(inode.0));
    }
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            self.0.files.lock().unwrap()[inode.0 as usize - 2].1.resize(size as usize, 0);
        }
        reply.attr(&Duration::ZERO, &self.0.attributes(inode.0));
    }
    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut files = self.0.files.lock().unwrap();
        files.push((name.to_str().unwrap().to_owned(), Vec::new()));
        let inode = files.len() as u64 + 1;
        drop(files);
        let attributes = self.0.attributes(inode);
        reply.created(
            &Duration::ZERO,
            &attributes,
            Generation(0),
            FileHandle(0),
            FopenFlags::FOPEN_DIRECT_IO,
        );
    }
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }
    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let files = self.0.files.lock().unwrap();
        let bytes = &files[inode.0 as usize - 2].1;
        let from = (offset as usize).min(bytes.len());
        reply.data(&bytes[from..(from + size as usize).min(bytes.len())]);
    }
    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.wait();
        let mut files = self.0.files.lock().unwrap();
        let bytes = &mut files[inode.0 as usize - 2].1;
        let end = offset as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(data);
        reply.written(u32::try_from(data.len()).unwrap());
    }
    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        new_name: &OsStr,
        _: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut files = self.0.files.lock().unwrap();
        for file in files.iter_mut() {
            if *file.0 == *new_name {
                file.0 = "(replaced)".to_owned();
            } else if *file.0 == *name {
                file.0 = new_name.to_str().unwrap().to_owned();
            }
        }
        reply.ok();
    }
    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        for file in self.0.files.lock().unwrap().iter_mut().filter(|file| *file.0 == *name) {
            file.0 = "(gone)".to_owned();
        }
        reply.ok();
    }
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: fuser::ReplyDirectory) {
        for (at, file) in self.0.files.lock().unwrap().iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(at as u64 + 2), at as u64 + 1, FileType::RegularFile, &file.0) {
                break;
            }
        }
        reply.ok();
    }
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
    fn statfs(&self, _: &Request, _: INodeNo, reply: fuser::ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 0, 0, 4096, 255, 4096);
    }
}

#[test]
fn a_log_that_blocks_is_eio_within_50_ms_and_recovers_within_a_second() {
    let place = std::env::temp_dir().join(format!("credfs-sink-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let disk = Arc::new(Disk::default());
    let mut config = fuser::Config::default();
    config.n_threads = Some(4);
    let sink = fuser::spawn_mount(Serving(Arc::clone(&disk)), &place, &config).unwrap();
    let log = place.join("audit.log");
    {
        let policy = "[[grants]]\nto = [\"everyone\"]\nread = [\"**\"]\n";
        let stage = Stage::with_log("sink", policy, |store| store, Some(&log));
        stage.world.put("app", Staged::Current, &[("key", "fine")]);
        assert_eq!(stage.run("cat", "app/key").text(), "fine");
        let _let_go = LetGo(Arc::clone(&disk));
        disk.hold(true);
        let mut waits: Vec<Duration> = (0..9)
            .map(|_| {
                let refused = stage.run("cat", "app/key");
                refused.failed_with("Input/output error");
                assert!(stage.run("stat", "app/key").output.status.success(), "metadata goes on");
                refused.took
            })
            .collect();
        waits.sort();
        eprintln!("a process that opens takes {waits:?}");
        assert!(waits[0] < Duration::from_millis(50) && waits[8] < Duration::from_millis(250), "{waits:?}");
        disk.hold(false);
        let since = Instant::now();
        while stage.run("cat", "app/key").text() != "fine" {
            assert!(since.elapsed() < Duration::from_secs(1), "it does not recover");
        }
        let text = String::from_utf8(
            disk.files.lock().unwrap().iter().find(|file| file.0 == "audit.log").unwrap().1.clone(),
        );
        let released = text.unwrap().matches("\"outcome\":\"released\"").count();
        assert!(released >= 2, "a write that ended late leaves a record without bytes, never the reverse");
    }
    drop(sink);
    let _ = std::process::Command::new("umount").arg("-l").arg(&place).status();
    std::fs::remove_dir(&place).unwrap();
}
