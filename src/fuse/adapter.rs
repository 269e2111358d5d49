//! Links the kernel's requests to the tree: identify, ask, answer. No rule lives here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::access::Refusal;
use crate::caller::{Asker, Caller, Identifier};
use crate::sys::process::FileStatus;
use crate::tree::{Entry, ExtendedName, Inode, Lookup, Tree, Wants};

use super::deferred::Deferred;
use super::directories::Directories;
use super::introduction::negotiate;
use super::notices::Notices;
use super::pace::Pace;
use super::pages::Pages;
use super::pending::{Busy, Owed, Slot, Watch};
use super::questions::Questions;
use super::reading::ReadAt;
use super::spin::Spin;
use super::{errno, translate};

/// The FUSE side of one mount.
pub(super) struct Adapter {
    pub(super) tree: Arc<Tree>,
    pub(super) identifier: Arc<Identifier>,
    pub(super) watch: Arc<Watch>,
    /// Requests that wait until the executable of their caller was read.
    pub(super) deferred: Arc<Deferred>,
    /// How long the questions for one LOOKUP may take.
    pub(super) request_deadline: std::time::Duration,
    pub(super) pace: Pace,
    pub(super) directories: Directories,
    pub(super) runtime: tokio::runtime::Handle,
    /// The notifier, whose process alone may see and use its private names; empty until it runs.
    pub(super) notices: OnceLock<Weak<Notices>>,
    /// What the kernel keeps of files, to be taken back; empty until it runs.
    pub(super) pages: OnceLock<Pages>,
}

/// One reader of the device; all share an adapter.
pub(super) struct Loop {
    pub(super) adapter: Arc<Adapter>,
    pub(super) role: Role,
}

/// What a reader does between two requests.
pub(super) enum Role {
    /// It looks for the next one, and waits for it.
    Standing(Spin),
    /// It was added because the others were held up, and rests while they are not.
    Relief,
    /// It answers one request that was put by, and reads none.
    Once,
}

impl std::ops::Deref for Loop {
    type Target = Adapter;
    fn deref(&self) -> &Adapter {
        &self.adapter
    }
}

impl Loop {
    /// Runs one handler. A panic drops the handler's reply, which answers EIO, and goes no further.
    pub(super) fn guard(&self, handler: impl FnOnce()) {
        self.run(self.watch.begin(None), handler);
    }

    /// The same for a request whose reply lies where the clock can answer it.
    fn guard_owed(&self, owed: Owed, handler: impl FnOnce(&Arc<Slot>)) {
        let busy = self.watch.begin(Some(owed));
        let slot = Arc::clone(busy.slot());
        self.run(busy, || {
            let unanswered = Unanswered(&slot);
            handler(&slot);
            drop(unanswered);
        });
    }

    fn run(&self, busy: Busy, handler: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!("a handler failed; its request was answered with EIO");
        }
        drop(busy);
        match &self.role {
            Role::Standing(spin) => spin.look(),
            Role::Relief => self.watch.rest(),
            Role::Once => {}
        }
    }
}

/// Answers EIO when it is dropped with the reply still owed, which only a panic leaves: whoever answers, or hands on,
/// takes it out.
struct Unanswered<'a>(&'a Slot);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(owed) = self.0.take() {
            owed.error(Errno::EIO);
        }
    }
}

/// Set in the number of a request that the kernel sent before, to a reader that is gone (`FUSE_UNIQUE_RESEND`).
const RESENT: u64 = 1 << 63;

impl Adapter {
    /// Finds out who asks. The daemon's own threads are refused before anything can wait for them.
    pub(super) fn identify(&self, asker: Asker) -> Result<Caller<'_>, Refusal> {
        self.identifier
            .identify(asker)
            .map(Caller::without_reading_files)
            .map_err(|_| self.tree.gate().note_self_access(asker.uid, asker.gid))
    }

    /// The executable that must be read before this request can be decided, if any.
    fn file_to_wait_for(&self, asker: Asker) -> Option<FileStatus> {
        let gate = self.tree.gate();
        if !gate.names_digests() {
            return None;
        }
        let caller = self.identifier.identify(asker).ok()?;
        if gate.policy().may_need_digest(&caller) { caller.file_to_read() } else { None }
    }

    /// Whether the notifier's process asks. It has one thread, so that another thread's number settles it: nothing
    /// need be read of an ordinary caller.
    pub(super) fn is_notifier(&self, caller: &Caller<'_>) -> bool {
        let helper = self.notices.get().and_then(Weak::upgrade).and_then(|notices| notices.helper_pid());
        helper == Some(caller.tid()) && caller.pid() == helper
    }

    /// The notifier's utime of an alias: nothing changes, and the kernel tells the inode's watchers.
    pub(super) fn acknowledge_touch(
        &self,
        request: &Request,
        inode: INodeNo,
        size: Option<u64>,
    ) -> Option<Entry> {
        let caller = self.identify(asker_of(request)).ok()?;
        if size.is_some() || !self.is_notifier(&caller) {
            return None;
        }
        self.tree.attributes_for_notifier(Inode(inode.0)).ok()
    }

    /// The notifier's rename of a link into place: it is there already, and the kernel tells the directory's
    /// watchers.
    pub(super) fn acknowledge_swap(&self, request: &Request, from: INodeNo) -> bool {
        let is_notifier = self.identify(asker_of(request)).is_ok_and(|caller| self.is_notifier(&caller));
        is_notifier && Inode(from.0) == Inode::of_notices()
    }

    /// Answers a refused lookup, at once or, for who asks too often, a little later.
    fn refuse_entry(&self, uid: u32, refusal: Refusal, reply: ReplyEntry) {
        let errno = errno::of_path(refusal);
        match self.pace.delay(uid, Instant::now()) {
            None => reply.error(errno),
            Some(delay) => {
                self.runtime.spawn(async move {
                    tokio::time::sleep(delay).await;
                    reply.error(errno);
                });
            }
        }
    }
}

fn asker_of(request: &Request) -> Asker {
    let is_resent = request.unique().0 & RESENT != 0;
    Asker { uid: request.uid(), gid: request.gid(), tid: request.pid(), is_resent }
}

impl Loop {
    /// Has a request answered now or, where its caller's executable must be read first, after that.
    fn when_known(&self, request: &Request, act: impl FnOnce(&Self, Asker) + Send + 'static) {
        let asker = asker_of(request);
        match self.file_to_wait_for(asker) {
            None => act(self, asker),
            Some(file) => self.defer(file, asker, act),
        }
    }

    fn defer(&self, file: FileStatus, asker: Asker, act: impl FnOnce(&Self, Asker) + Send + 'static) {
        let this = Self { adapter: Arc::clone(&self.adapter), role: Role::Once };
        self.deferred.wait(file, asker, Box::new(move || act(&this, asker)));
    }

    fn answer_lookup(&self, asker: Asker, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard(|| self.look_up(asker, parent, name, reply, &mut Questions::of(self.request_deadline)));
    }

    /// Looks a name up; where a store must be asked first, the request goes on when it has answered. Its caller waits for
    /// us all the while, and is decided about anew.
    fn look_up(
        &self,
        asker: Asker,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
        questions: &mut Questions,
    ) {
        let caller = match self.identify(asker) {
            Ok(caller) => caller,
            Err(refusal) => return reply.error(errno::of_path(refusal)),
        };
        let looked = if self.is_notifier(&caller) {
            Lookup::Done(self.tree.lookup_for_notifier(Inode(parent.0), name.as_bytes()))
        } else if questions.may_ask() {
            self.tree.lookup_or_ask(&caller, Inode(parent.0), name.as_bytes())
        } else {
            Lookup::Done(self.tree.lookup(&caller, Inode(parent.0), name.as_bytes()))
        };
        match looked {
            Lookup::Done(Ok(Entry { attributes, entry_lifetime, attribute_lifetime })) => reply
                .entry_with_ttls(
                    &attribute_lifetime,
                    &entry_lifetime,
                    &translate::attributes(&attributes),
                    Generation(0),
                ),
            Lookup::Done(Err(refusal)) => self.refuse_entry(asker.uid, refusal, reply),
            Lookup::Asking(asking) => {
                let this = Self { adapter: Arc::clone(&self.adapter), role: Role::Once };
                let (name, mut questions) = (name.to_owned(), questions.clone());
                self.runtime.spawn(async move {
                    match questions.put(asking).await {
                        Ok(()) => {
                            let watch = Arc::clone(&this.watch);
                            watch.elsewhere(|| {
                                this.guard(|| this.look_up(asker, parent, &name, reply, &mut questions));
                            });
                        }
                        Err(refusal) => reply.error(errno::of_path(refusal)),
                    }
                });
            }
        }
    }

    fn answer_getxattr(&self, asker: Asker, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guard(|| {
            let name = ExtendedName::named(name.as_bytes());
            let value =
                self.identify(asker).and_then(|caller| self.tree.extended(&caller, Inode(inode.0), name));
            match value {
                Ok(Some(value)) => translate::extended(value.as_bytes(), size, reply),
                Ok(None) => reply.error(Errno::ENODATA),
                Err(refusal) => reply.error(errno::of_path(refusal)),
            }
        });
    }
}

impl Filesystem for Loop {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asker = asker_of(request);
        match self.file_to_wait_for(asker) {
            None => self.answer_lookup(asker, parent, name, reply),
            Some(file) => {
                let name = name.to_owned();
                self.defer(file, asker, move |this, asker| this.answer_lookup(asker, parent, &name, reply));
            }
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.guard(|| self.tree.forget(Inode(inode.0), count));
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let entry = this.identify(asker).and_then(|caller| {
                    if this.is_notifier(&caller) {
                        return this.tree.attributes_for_notifier(Inode(inode.0));
                    }
                    this.tree.attributes(&caller, Inode(inode.0))
                });
                match entry {
                    Ok(entry) => {
                        reply.attr(&entry.attribute_lifetime, &translate::attributes(&entry.attributes))
                    }
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let target =
                    this.identify(asker).and_then(|caller| this.tree.link_target(&caller, Inode(inode.0)));
                match target {
                    Ok(target) => reply.data(target.as_bytes()),
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn access(&self, request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let wants = Wants {
                    read: mask.contains(AccessFlags::R_OK),
                    execute: mask.contains(AccessFlags::X_OK),
                };
                let answer =
                    this.identify(asker).and_then(|caller| this.tree.access(&caller, Inode(inode.0), wants));
                match answer {
                    Ok(()) if mask.contains(AccessFlags::W_OK) => reply.error(Errno::EROFS),
                    Ok(()) => reply.ok(),
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        self.when_known(request, move |this, asker| {
            this.guard_owed(Owed::Open(reply), |slot| this.begin_open(asker, Inode(inode.0), slot));
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let is_kept = lock_owner.is_none();
        let at = ReadAt { inode: Inode(inode.0), handle: handle.0, offset, size_bytes: size, is_kept };
        self.when_known(request, move |this, asker| {
            this.guard_owed(Owed::Read(reply), |slot| this.adapter.begin_read(asker, at, slot));
        });
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.guard(|| {
            self.tree.close(handle.0);
            reply.ok();
        });
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let opened = this
                    .identify(asker)
                    .and_then(|caller| this.directories.open(&this.tree, &caller, Inode(inode.0)));
                match opened {
                    Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let listed = this
                    .identify(asker)
                    .and_then(|caller| this.directories.list(&this.tree, &caller, Inode(inode.0), handle.0));
                let entries = match listed {
                    Ok(entries) => entries,
                    Err(refusal) => return reply.error(errno::of_path(refusal)),
                };
                super::directories::fill(inode, &entries, offset, |inode, cookie, kind, name| {
                    reply.add(inode, cookie, kind, name)
                });
                reply.ok();
            });
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.guard(|| {
            self.directories.close(handle.0);
            reply.ok();
        });
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                // `df` asks for the root: answered from constants, never from a store.
                let visible = if inode == INodeNo::ROOT {
                    Ok(())
                } else {
                    this.identify(asker)
                        .and_then(|caller| this.tree.attributes(&caller, Inode(inode.0)).map(|_| ()))
                };
                match visible {
                    Ok(()) => reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096),
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let asker = asker_of(request);
        match self.file_to_wait_for(asker) {
            None => self.answer_getxattr(asker, inode, name, size, reply),
            Some(file) => {
                let name = name.to_owned();
                self.defer(file, asker, move |this, asker| {
                    this.answer_getxattr(asker, inode, &name, size, reply);
                });
            }
        }
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.when_known(request, move |this, asker| {
            this.guard(|| {
                let names =
                    this.identify(asker).and_then(|caller| this.tree.extended_names(&caller, Inode(inode.0)));
                match names {
                    Ok(names) => {
                        let list: String = names.into_iter().map(|name| name.full() + "\0").collect();
                        translate::extended(list.as_bytes(), size, reply);
                    }
                    Err(refusal) => reply.error(errno::of_path(refusal)),
                }
            });
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        // Python's open() asks isatty().
        reply.error(Errno::ENOTTY);
    }

    super::read_only::refusals!();
}
