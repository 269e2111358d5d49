//! One caller during one unanswered request: facts read when first asked for, and then kept the same.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Asker;
use super::cgroup::Place;
use super::consumer;
use super::identifier::{Identifier, PROC_BYTES_MAX, Thread};
use super::proc_text::{self, Status};
use super::witness::{ExecFingerprint, ProcessMark, Witness};
use crate::model::{Consumer, Executable, Facts, Session, Sha256Digest, Sharing, Unknown};
use crate::sys::process::{self, FileStatus, ProcDirectory, ThreadInfo};

/// What `identify` found out.
#[derive(Debug)]
pub(super) enum Known {
    /// From a kept pidfd; `mark` is the process's inode number.
    Kept { thread: Arc<Thread>, info: ThreadInfo, mark: u64 },
    /// From `/proc`.
    Read { directory: Arc<ProcDirectory>, status: Arc<Status> },
}

impl Known {
    pub(super) fn tgid(&self) -> u32 {
        match self {
            Self::Kept { info, .. } => info.tgid,
            Self::Read { status, .. } => status.tgid,
        }
    }

    /// Effective uid and gid.
    pub(super) fn effective(&self) -> (u32, u32) {
        match self {
            Self::Kept { info, .. } => (info.uids[1], info.gids[1]),
            Self::Read { status, .. } => (status.uids[1], status.gids[1]),
        }
    }
}

type Fact<T> = OnceCell<Result<T, Unknown>>;

/// Who asks. Lives no longer than the request is unanswered.
pub struct Caller<'a> {
    identifier: &'a Identifier,
    asker: Asker,
    /// The thread as it was kept from an earlier request: whoever has its number now must prove to be it.
    kept: Option<Arc<Thread>>,
    /// Whether a digest that is not at hand is taken when it is asked for.
    reads_files: bool,
    known: OnceCell<Option<Known>>,
    directory: Fact<Arc<ProcDirectory>>,
    groups: Fact<Vec<u32>>,
    place: Fact<Arc<Place>>,
    executable: Fact<FileStatus>,
    digest: Fact<Sha256Digest>,
    session: Fact<Session>,
    start_ticks: Fact<u64>,
}

/// What was read of a caller, for the audit record: unit and container always, the rest only if some rule asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// User of the request.
    pub uid: u32,
    /// Group of the request.
    pub gid: u32,
    /// Process (thread group).
    pub pid: Option<u32>,
    /// Thread.
    pub tid: Option<u32>,
    /// systemd unit.
    pub unit: Option<Arc<str>>,
    /// Container id.
    pub container: Option<Arc<str>>,
    /// The file it runs.
    pub exe: Option<Executable>,
    /// That file's digest.
    pub exe_sha256: Option<Sha256Digest>,
    /// Who logged in.
    pub login_uid: Option<u32>,
    /// Which login.
    pub session: Option<u32>,
    /// Whether the kernel sent his request before, to a process of ours that did not answer it.
    pub is_resent: bool,
}

/// This process, as an administrator is described: unit, container and login as far as `/proc` says.
#[must_use]
pub fn ourselves(uid: u32, gid: u32) -> Described {
    let own = process::own_pid();
    let directory = ProcDirectory::open(own).ok();
    let read = |name| directory.as_ref()?.read(name, PROC_BYTES_MAX).ok();
    let place = read(c"cgroup").and_then(|text| Place::of(proc_text::unified_cgroup(&text)?).ok());
    let number = |name| read(name).and_then(|text| proc_text::audit_number(&text));
    let (unit, container) = place.map_or((None, None), |place| (place.unit, place.container));
    Described {
        uid,
        gid,
        pid: Some(own),
        tid: Some(own),
        unit,
        container,
        login_uid: number(c"loginuid"),
        session: number(c"sessionid"),
        ..Described::default()
    }
}

impl<'a> Caller<'a> {
    /// A caller of whom `known` was read for this request.
    pub(super) fn new(identifier: &'a Identifier, asker: Asker, known: Option<Known>) -> Self {
        Self::made(identifier, asker, None, OnceCell::from(known))
    }

    /// A caller of whom nothing has been read for this request, but whose thread asked before.
    pub(super) fn unread(identifier: &'a Identifier, asker: Asker, kept: Arc<Thread>) -> Self {
        Self::made(identifier, asker, Some(kept), OnceCell::new())
    }

    const fn made(
        identifier: &'a Identifier,
        asker: Asker,
        kept: Option<Arc<Thread>>,
        known: OnceCell<Option<Known>>,
    ) -> Self {
        Self {
            identifier,
            asker,
            reads_files: true,
            kept,
            known,
            directory: OnceCell::new(),
            groups: OnceCell::new(),
            place: OnceCell::new(),
            executable: OnceCell::new(),
            digest: OnceCell::new(),
            session: OnceCell::new(),
            start_ticks: OnceCell::new(),
        }
    }

    fn at_hand(&self) -> Option<&Known> {
        self.known.get_or_init(|| self.identifier.know(self.asker.tid, self.kept.as_ref())).as_ref()
    }

    /// The thread that asks; 0 when it lives in a foreign pid namespace.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.asker.tid
    }

    /// The process that asks.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.at_hand().map(Known::tgid)
    }

    /// What to keep of this caller, to compare with a later one.
    #[must_use]
    pub fn witness(&self) -> Witness {
        let process = match self.at_hand() {
            Some(Known::Kept { info, mark, .. }) => Some(ProcessMark {
                tgid: info.tgid,
                origin: *mark,
                uids: info.uids,
                gids: info.gids,
                cgroup: u128::from(info.cgroup_id),
            }),
            Some(Known::Read { directory, status }) => self.mark_from_proc(directory, status).ok(),
            None => None,
        };
        Witness { uid: self.asker.uid, gid: self.asker.gid, process }
    }

    fn mark_from_proc(&self, directory: &ProcDirectory, status: &Status) -> Result<ProcessMark, Unknown> {
        let text = directory.read(c"cgroup", PROC_BYTES_MAX).map_err(|_| Unknown)?;
        let digest = Sha256::digest(proc_text::unified_cgroup(&text).ok_or(Unknown)?);
        let half = digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte));
        let [real_uid, effective_uid, saved_uid, _] = status.uids;
        let [real_gid, effective_gid, saved_gid, _] = status.gids;
        Ok(ProcessMark {
            tgid: status.tgid,
            origin: self.start_ticks()?,
            uids: [real_uid, effective_uid, saved_uid],
            gids: [real_gid, effective_gid, saved_gid],
            cgroup: half,
        })
    }

    /// The file the caller runs, to keep beside a [`Witness`] of a handle opened under a rule on the executable.
    ///
    /// # Errors
    /// [`Unknown`] where the executable cannot be seen.
    pub fn exec_fingerprint(&self) -> Result<ExecFingerprint, Unknown> {
        let facts = self.executable()?;
        Ok(ExecFingerprint { device: facts.device, inode: facts.inode, born: facts.born })
    }

    /// The same caller, of whom no digest is known but one at hand: where reading a whole file would hold up others.
    #[must_use]
    pub fn without_reading_files(self) -> Self {
        Self { reads_files: false, ..self }
    }

    /// The file that would have to be read for the digest; `None` where that is at hand, or cannot be had.
    #[must_use]
    pub fn file_to_read(&self) -> Option<FileStatus> {
        let file = self.executable().ok()?;
        let is_at_hand = self.identifier.executables.digest_at_hand(file).is_some();
        (!is_at_hand).then_some(*file)
    }

    /// Has the digest at hand from now on, if it can be had. Reads the whole file.
    pub fn take_digest(&self) {
        // Whoever decides by it asks again.
        let _ = self.executable_digest();
    }

    /// The facts read so far, and unit and container.
    #[must_use]
    pub fn describe(&self) -> Described {
        let place = self.place().ok();
        let executable = self.executable.get().and_then(|facts| facts.as_ref().ok());
        let session = self.session.get().and_then(|session| session.ok()).unwrap_or_default();
        Described {
            uid: self.asker.uid,
            gid: self.asker.gid,
            pid: self.pid(),
            tid: (self.asker.tid != 0).then_some(self.asker.tid),
            unit: place.and_then(|place| place.unit.clone()),
            container: place.and_then(|place| place.container.clone()),
            exe: executable.map(|facts| Executable {
                device: facts.device,
                inode: facts.inode,
                path_unproven: self.executable_text(facts),
            }),
            exe_sha256: self.digest.get().and_then(|digest| digest.ok()),
            login_uid: session.login_uid,
            session: session.id,
            is_resent: self.asker.is_resent,
        }
    }

    /// The text for people. It changes only with the file's names, which its time of change would tell.
    fn executable_text(&self, facts: &FileStatus) -> Arc<str> {
        let read = || {
            let text = self.identifier.executables.path_unproven_of(self.asker.tid);
            Arc::from(text.unwrap_or_default())
        };
        match self.at_hand() {
            Some(Known::Kept { thread, .. }) => thread.executable_text(facts, read),
            _ => read(),
        }
    }

    /// As [`Self::describe`], and who logged in: for what administrators do it is always recorded, also where root
    /// was become.
    #[must_use]
    pub fn describe_administrator(&self) -> Described {
        let _read = self.session();
        self.describe()
    }

    fn known(&self) -> Result<&Known, Unknown> {
        self.at_hand().ok_or(Unknown)
    }

    /// Fails unless the thread identified still lives, which proves that its number was its own until now. Where
    /// `/proc/TID` is kept open instead, a read of it proves the same.
    fn confirm(&self) -> Result<(), Unknown> {
        match self.known()? {
            Known::Kept { thread, info, .. } => {
                let now = thread.pidfd.info().map_err(|_| Unknown)?;
                (now.tgid == info.tgid).then_some(()).ok_or(Unknown)
            }
            Known::Read { directory, .. } => {
                directory.read(c"stat", PROC_BYTES_MAX).map(|_| ()).map_err(|_| Unknown)
            }
        }
    }

    fn directory(&self) -> Result<&ProcDirectory, Unknown> {
        self.directory
            .get_or_init(|| match self.known()? {
                Known::Read { directory, .. } => Ok(Arc::clone(directory)),
                Known::Kept { .. } => {
                    let opened = ProcDirectory::open(self.asker.tid).map_err(|_| Unknown)?;
                    self.confirm()?;
                    Ok(Arc::new(opened))
                }
            })
            .as_deref()
            .map_err(|unknown| *unknown)
    }

    fn place(&self) -> Result<&Place, Unknown> {
        self.place
            .get_or_init(|| {
                let known = self.known()?;
                match self.identifier.place_at_hand(known) {
                    Some(place) => Ok(place),
                    None => self.identifier.place(known, self.directory()?),
                }
            })
            .as_deref()
            .map_err(|unknown| *unknown)
    }

    fn executable(&self) -> Result<&FileStatus, Unknown> {
        self.executable
            .get_or_init(|| {
                let thread = match self.known()? {
                    Known::Kept { thread, .. } => Some(thread),
                    Known::Read { .. } => None,
                };
                if let Some(file) = thread.and_then(|thread| thread.program()) {
                    return Ok(file);
                }
                let seen = self.identifier.executables.executable_of(self.asker.tid)?;
                self.confirm()?;
                if let Some(thread) = thread {
                    thread.keep_program(seen.facts, seen.memory);
                }
                Ok(seen.facts)
            })
            .as_ref()
            .map_err(|unknown| *unknown)
    }

    fn read_groups(&self) -> Result<Vec<u32>, Unknown> {
        if let Known::Read { status, .. } = self.known()? {
            return Ok(status.groups.clone());
        }
        let text = self.directory()?.read(c"status", PROC_BYTES_MAX).map_err(|_| Unknown)?;
        Ok(proc_text::status(&text).ok_or(Unknown)?.groups)
    }

    fn read_session(&self) -> Result<Session, Unknown> {
        let directory = self.directory()?;
        let number = |name| match directory.read(name, 64) {
            Ok(text) => Ok(proc_text::audit_number(&text)),
            // A kernel without audit has no such file: nobody is logged in, unless the thread is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.confirm().map(|()| None),
            Err(_) => Err(Unknown),
        };
        Ok(Session { login_uid: number(c"loginuid")?, id: number(c"sessionid")? })
    }

    /// When the process (not the thread) started.
    fn start_ticks(&self) -> Result<u64, Unknown> {
        *self.start_ticks.get_or_init(|| {
            let leader = ProcDirectory::open(self.known()?.tgid()).map_err(|_| Unknown)?;
            let text = leader.read(c"stat", PROC_BYTES_MAX).map_err(|_| Unknown)?;
            self.confirm()?;
            proc_text::start_ticks(&text).ok_or(Unknown)
        })
    }
}

impl Facts for Caller<'_> {
    fn uid(&self) -> u32 {
        self.asker.uid
    }

    fn gid(&self) -> u32 {
        self.asker.gid
    }

    fn is_identified(&self) -> bool {
        self.at_hand().is_some()
    }

    fn in_group(&self, gid: u32) -> Result<bool, Unknown> {
        self.known()?;
        if gid == self.asker.gid {
            return Ok(true);
        }
        let groups = self.groups.get_or_init(|| self.read_groups());
        groups.as_ref().map(|groups| groups.contains(&gid)).map_err(|unknown| *unknown)
    }

    fn unit(&self) -> Result<Option<&str>, Unknown> {
        Ok(self.place()?.unit.as_deref())
    }

    fn container(&self) -> Result<Option<&str>, Unknown> {
        Ok(self.place()?.container.as_deref())
    }

    fn consumer(&self, sharing: Sharing) -> Consumer {
        let Ok(known) = self.known() else { return Consumer::Nobody };
        let group = || {
            let place = self.place().ok()?;
            consumer::group(place, self.identifier.consumer_root())
        };
        let found = match sharing {
            Sharing::Unit => group(),
            Sharing::Process => None,
        };
        found.or_else(|| consumer::process(known, || self.start_ticks().ok())).unwrap_or(Consumer::Nobody)
    }

    fn runs(&self, path: &Path) -> Result<bool, Unknown> {
        Ok(self.identifier.watched.allows(path, self.executable()?))
    }

    fn executable_digest(&self) -> Result<Sha256Digest, Unknown> {
        *self.digest.get_or_init(|| {
            let (executables, file) = (&self.identifier.executables, self.executable()?);
            if !self.reads_files {
                return executables.digest_at_hand(file).ok_or(Unknown);
            }
            let digest = executables.digest_of(self.asker.tid, file)?;
            self.confirm()?;
            Ok(digest)
        })
    }

    fn session(&self) -> Result<Session, Unknown> {
        *self.session.get_or_init(|| self.read_session())
    }

    fn age(&self) -> Result<Duration, Unknown> {
        let ticks = self.start_ticks()?;
        let per_second = process::ticks_per_second();
        let part = ticks % per_second * 1_000_000_000 / per_second;
        let start = Duration::from_secs(ticks / per_second) + Duration::from_nanos(part);
        Ok(process::since_boot().saturating_sub(start))
    }
}
