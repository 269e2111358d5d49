//! The worker, from its start to its end: open, take the session over, answer, reload, hand over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::access::Gate;
use crate::caller::{self, Identifier};
use crate::config::Config;
use crate::control::{Answer, CommandFault, Instance, Running, StatusAnswer, StoreStatus};
use crate::fuse::{self, PaceLimits, Session};
use crate::keeper::{self, Adopted, Link, Told};
use crate::model::{Operation, Outcome, Reason};
use crate::store::{Dynamic, Remote, Store, StoreState};
use crate::sys::notify::{Notify, monotonic_us};
use crate::sys::program_text;
use crate::sys::{harden, memory};
use crate::tree::{self, Tree};

use super::dynamic;
use super::left::Leaving;
use super::reload::Reloader;
use super::rooms::{self, Rooms, check, load_policy, size};
use super::{Surroundings, ourselves, rights, socket};

/// How long revoking our logins may take at the end.
const LOG_OUT_MAX: Duration = Duration::from_secs(1);
/// How long a starting worker waits for a command that has the files open.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often the worker looks whether it is still mounted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Stack of the runtime's threads, in bytes: SQLite and one command fit many times over.
const STACK_BYTES: usize = 512 * 1024;
/// How long the end of a session is waited for once its mount is being taken away.
const END_WAIT: Duration = Duration::from_secs(3);

/// What a worker is given.
pub struct Working<'a> {
    /// The configuration file.
    pub config: &'a Path,
    /// What systemd said.
    pub surroundings: &'a Surroundings,
    /// Where its keeper is.
    pub keeper: keeper::From,
}

/// What `status` and `reload` need of an instance that serves.
struct Live {
    gate: Arc<Gate>,
    config: Config,
    reloader: Reloader,
    /// Guards the session and the tree, which are there while it serves.
    served: RwLock<Option<(Session, Arc<Tree>)>>,
    link: Arc<Link>,
    is_stopping: AtomicBool,
    started: String,
}

impl Running for Live {
    fn status(&self) -> StatusAnswer {
        let served = self.served.read();
        let counts = served.as_ref().map(|(_, tree)| tree.counts());
        let is_remote =
            |name: &str| self.config.stores.iter().any(|store| store.name == name && store.local().is_none());
        let places = self.gate.places();
        let status = |store: &Arc<dyn Store>| {
            StoreStatus::of(store.as_ref(), &|path| places.tree_path(store.name(), path))
        };
        let stores: Vec<StoreStatus> = places.stores().into_iter().map(status).collect();
        let recording = self.gate.log().check();
        let is_mounted = served.as_ref().is_some_and(|(session, _)| session.is_serving());
        let (state, why) = if self.is_stopping.load(Ordering::Relaxed) {
            ("stopping", Some("it is being stopped"))
        } else if !is_mounted {
            ("stopped", Some("it is not mounted"))
        } else if recording.is_err() {
            (
                "degraded",
                Some("the audit log cannot be written, so nothing is released: `credfs doctor` says why"),
            )
        } else if stores.iter().any(|store| store.state != StoreState::Ready && !is_remote(&store.name)) {
            ("degraded", Some("a store cannot be used: `credfs doctor` says why"))
        } else if stores.iter().any(|store| store.state != StoreState::Ready) {
            (
                "serving",
                Some("a store does not answer: what was read from it lately is given within its grace"),
            )
        } else {
            ("serving", None)
        };
        let policy = self.gate.policy();
        StatusAnswer {
            state: state.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mount_point: Some(self.config.mount_point.clone()),
            worker_pid: Some(std::process::id()),
            keeper_pid: self.link.keeper_pid(),
            stores,
            why: why.map(str::to_owned),
            audit: Some(recording.map_or_else(|fault| fault.to_string(), |()| "recording".to_owned())),
            policy: Some(policy.digest().as_str().to_owned()),
            grants: Some(policy.grant_count()),
            started: Some(self.started.clone()),
            open_files: counts.map(|counts| counts.handles),
            inodes: counts.map(|counts| counts.inodes),
            unlocked_bytes: Some(memory::unlocked_bytes()),
        }
    }

    fn reload(&self) -> Result<Answer, CommandFault> {
        self.reloader.reload()
    }
}

/// Serves the session of a keeper until it is told to end or to hand over.
///
/// # Errors
/// [`CommandFault`]: nothing stays open then.
pub fn work(working: Working<'_>) -> Result<(), CommandFault> {
    rights::give_up(None)?;
    let (config, loaded) = check(working.config)
        .and_then(|config| load_policy(&config).map(|loaded| (config, loaded)))
        .map_err(|faults| CommandFault::invalid(&faults))?;
    rights::give_up(Some(&config))?;
    for warning in config.warnings().iter().chain(&loaded.warnings) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(STACK_BYTES)
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| CommandFault::failed(format!("no threads could be started: {error}")))?;
    socket::refuse_a_second(&config)?;
    let executables = loaded.policy.executables();
    let rooms = rooms::open(&config, working.surroundings, Some(loaded.policy), LOCK_WAIT)
        .map_err(rooms::OpenTrouble::into_fault)?;
    let Rooms { gate, locals, remotes, engines, dynamics, opened } = rooms;
    if let Some(fingerprint) = opened.new_chain {
        tracing::warn!(%fingerprint, "a new audit chain begins: keep its fingerprint elsewhere");
    }
    let (link, adopted) = Link::open(working.keeper, size(config.limits.executables_max))
        .map_err(|fault| CommandFault::failed(fault.to_string()))?;
    let identifier = Arc::new(identifier(&config, &link)?);
    identifier.watch_executables(&executables);
    let _receipt = gate.record_act(&ourselves(), Operation::Start, Outcome::Done, Some(Reason::Command))?;
    gate.note_timed_out(adopted.timed_out);
    let live = Arc::new(Live {
        gate: Arc::clone(&gate),
        reloader: Reloader {
            gate: Arc::clone(&gate),
            identifier: Arc::clone(&identifier),
            locals: locals.values().map(|local| Arc::clone(&local.store)).collect(),
            engines,
            surroundings: working.surroundings.clone(),
            runtime: runtime.handle().clone(),
            config: Mutex::new(config.clone()),
            public_entry_lifetime: config.limits.directory_life,
        },
        served: RwLock::new(None),
        link,
        is_stopping: AtomicBool::new(false),
        started: gate.now().rfc3339(),
        config,
    });
    dynamic::begin(&dynamics, &gate, &runtime);
    let running: Arc<dyn Running> = Arc::clone(&live) as Arc<dyn Running>;
    let instance = Arc::new(Instance { gate, locals, running: Some(running) });
    let stores = Beside { remotes: &remotes, dynamics: &dynamics };
    let ended = run(&live, &instance, &identifier, &runtime, adopted, working.surroundings, &stores);
    remotes.iter().for_each(|remote| remote.close());
    // What is still under way is bounded by its own deadline; it must not outlive the log.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Revokes what we logged in with. An engine that does not answer revokes it itself when its time is over.
/// With `is_handed_over` a successor goes on with what hangs on some of them: those stay.
pub fn log_out(runtime: &tokio::runtime::Runtime, remotes: &[Arc<Remote>], is_handed_over: bool) {
    if remotes.is_empty() {
        return;
    }
    let all = async {
        for remote in remotes {
            remote.log_out_all(is_handed_over).await;
        }
    };
    if runtime.block_on(async { tokio::time::timeout(LOG_OUT_MAX, all).await }).is_err() {
        tracing::warn!("not every login was revoked at its store: it did not answer");
    }
}

/// The stores that are looked after while we serve.
struct Beside<'a> {
    remotes: &'a [Arc<Remote>],
    dynamics: &'a [Arc<Dynamic>],
}

fn run(
    live: &Arc<Live>,
    instance: &Arc<Instance>,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
    adopted: Adopted,
    surroundings: &Surroundings,
    stores: &Beside<'_>,
) -> Result<(), CommandFault> {
    let remotes = stores.remotes;
    // Before anyone is served: a signal that comes while we start is kept for the loop, and ends us in order.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(|error| cannot_serve(&error))?;
    let leaving = Leaving::at(&live.config.audit.path, remotes.to_vec())?;
    let tree = take_over(live, identifier, runtime, adopted, &leaving)?;
    // After what was left is known: it is asked about bit by bit. They end with the runtime.
    for remote in remotes {
        runtime.spawn(Arc::clone(remote).watch_over());
    }
    let server = match socket::serve(&live.config, instance, identifier, runtime) {
        Ok(server) => server,
        Err(fault) => {
            hand_over(live, &tree, &leaving);
            return Err(fault);
        }
    };
    let mut told = listen_to_keeper(live)?;
    let upkeep = leaving.keep_leaving(&tree, &live.link).map_err(|error| cannot_serve(&error))?;
    live.link.serving().map_err(|error| cannot_serve(&error))?;
    // What only the start needed: it is most of the program.
    let given_back_bytes = program_text::give_back();
    tracing::debug!(given_back_bytes, "instructions that the start needed");
    let notify = Notify::to(surroundings.notify_socket.as_deref());
    tell(&notify, &format!("READY=1\nMAINPID={}", std::process::id()));
    tracing::info!(mount_point = %live.config.mount_point.display(), "serving");
    let end = runtime.block_on(watch_over(live, &mut signals, &mut told, &notify, surroundings));
    live.is_stopping.store(true, Ordering::Relaxed);
    tell(&notify, "STOPPING=1");
    let wait = match end {
        End::Stop | End::HandOver => live.config.limits.shutdown_deadline,
        // Nobody can be served any more: commands neither.
        End::Unmounted | End::KeeperGone => Duration::ZERO,
    };
    if matches!(end, End::HandOver) {
        live.link.ending();
    }
    // Whoever signals a second time does not want to wait for commands that are under way.
    let hurry = Arc::new(AtomicBool::new(false));
    let hurried = Arc::clone(&hurry);
    runtime.spawn(async move {
        tokio::select! {
            _ = signals.terminate.recv() => {}
            _ = told.recv() => {}
        }
        hurried.store(true, Ordering::SeqCst);
    });
    server.stop(wait, &hurry);
    drop(upkeep);
    let all = match end {
        End::HandOver => hand_over(live, &tree, &leaving),
        End::Stop => {
            // The keeper takes the mount away now.
            live.link.ending();
            let_end(live);
            dynamic::end(stores.dynamics, runtime);
            true
        }
        End::Unmounted | End::KeeperGone => true,
    };
    // Leases hang on the login they were minted under, and are to outlive all but a planned end.
    log_out(runtime, stores.remotes, !matches!(end, End::Stop));
    let stopped = live.gate.record_act(&ourselves(), Operation::Stop, Outcome::Done, Some(end.reason()));
    tracing::info!("stopped");
    if matches!(end, End::HandOver) {
        live.link.drained(all);
    }
    match end {
        End::Stop | End::HandOver => stopped.map(drop).map_err(CommandFault::from),
        End::Unmounted => Err(CommandFault::failed(format!(
            "{} was unmounted by somebody else: start the instance again",
            live.config.mount_point.display()
        ))),
        End::KeeperGone => Err(CommandFault::failed("the keeper is gone, and the mount with it")),
    }
}

/// Hears what the keeper says, on a thread of its own.
fn listen_to_keeper(live: &Live) -> Result<mpsc::UnboundedReceiver<Told>, CommandFault> {
    let (tell, told) = mpsc::unbounded_channel();
    let link = Arc::clone(&live.link);
    let listening = move || {
        loop {
            let heard = link.next_told();
            if tell.send(heard).is_err() || heard == Told::Gone {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("keeper".into())
        .spawn(listening)
        .map_err(|error| cannot_serve(&error))?;
    Ok(told)
}

/// Answers what was taken, and leaves the rest to a successor.
fn hand_over(live: &Live, tree: &Arc<Tree>, leaving: &Leaving) -> bool {
    let Some((session, _)) = live.served.write().take() else { return true };
    let all = session.hand_over(live.config.limits.request_deadline + Duration::from_secs(1));
    leaving.leave_everything(tree, &live.link);
    all
}

/// Waits for the end of a session whose mount is being taken away.
fn let_end(live: &Live) {
    let served = live.served.write().take();
    let Some((session, _)) = served else { return };
    if session.ends(END_WAIT) {
        session.join();
    } else {
        tracing::warn!("the mount was not taken away in time: requests may go unanswered");
    }
}

fn cannot_serve(error: &dyn std::fmt::Display) -> CommandFault {
    CommandFault::failed(format!("cannot serve: {error}"))
}

fn identifier(config: &Config, link: &Link) -> Result<Identifier, CommandFault> {
    let options = caller::Options {
        // One descriptor each: the log, the store and the socket need theirs too, however few there are.
        threads_max: size(config.limits.callers_max.min(harden::open_files_max() / 4)),
        executables_max: size(config.limits.executables_max),
        ..caller::Options::default()
    };
    Identifier::new(options, link.executables())
        .map_err(|error| CommandFault::failed(format!("callers cannot be told: {error}; is /proc mounted?")))
}

/// Builds the tree, goes on with what the worker before left, and serves from when the keeper says so.
fn take_over(
    live: &Live,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
    adopted: Adopted,
    leaving: &Leaving,
) -> Result<Arc<Tree>, CommandFault> {
    let config = &live.config;
    let (directory_uid, directory_gid) = live.link.keeper_owner();
    let tree = Tree::new(
        Arc::clone(&live.gate),
        tree::Options {
            public_entry_lifetime: config.limits.directory_life,
            attribute_lifetime: Duration::from_secs(3600),
            handles_max: size(config.limits.handles_max),
            directory_uid,
            directory_gid,
        },
    );
    if let Some(left) = &adopted.left {
        leaving.take_over(&tree, left);
    }
    let options = fuse::Options {
        loop_threads: size(config.limits.threads_max),
        spin_max: config.limits.spin_max,
        audit_wait: config.limits.audit_wait,
        request_deadline: config.limits.request_deadline,
        pace: PaceLimits {
            refusals_per_second: 2_000,
            refusals_burst: 5_000,
            delay_max: Duration::from_millis(20),
        },
    };
    live.link.go().map_err(|fault| CommandFault::failed(fault.to_string()))?;
    let connection = fuse::Connection {
        device: adopted.device,
        introduction: adopted.introduction,
        pages: adopted.pages,
        orders: Arc::clone(&live.link) as Arc<dyn fuse::notifier::Orders>,
    };
    let session =
        Session::serve(&tree, Arc::clone(identifier), runtime.handle().clone(), &options, connection)
            .map_err(|error| cannot_serve(&error))?;
    *live.served.write() = Some((session, Arc::clone(&tree)));
    Ok(tree)
}

fn tell(notify: &Notify, state: &str) {
    if let Err(error) = notify.send(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Why a worker ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The keeper takes the mount away.
    Stop,
    /// A successor shall go on.
    HandOver,
    /// Somebody else took the mount away.
    Unmounted,
    /// The keeper died, and its guard takes the mount away.
    KeeperGone,
}

impl End {
    const fn reason(self) -> Reason {
        match self {
            Self::Stop | Self::HandOver => Reason::Signal,
            Self::Unmounted | Self::KeeperGone => Reason::Error,
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())? })
    }
}

async fn watch_over(
    live: &Arc<Live>,
    signals: &mut Signals,
    told: &mut mpsc::UnboundedReceiver<Told>,
    notify: &Notify,
    surroundings: &Surroundings,
) -> End {
    // Half the time that systemd gives us, as sd_watchdog_enabled(3) advises.
    let watchdog = surroundings.watchdog_usec.map(|micros| Duration::from_micros(micros / 2));
    let mut since_told = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY.min(watchdog.unwrap_or(LOOK_EVERY)));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return End::HandOver,
            heard = told.recv() => return match heard {
                Some(Told::Stop) => End::Stop,
                Some(Told::Gone) | None => End::KeeperGone,
            },
            _ = signals.hangup.recv() => reload_by_signal(live, notify).await,
            _ = looks.tick() => {
                if !live.served.read().as_ref().is_some_and(|(session, _)| session.is_serving()) {
                    return End::Unmounted;
                }
                live.reloader.identifier.look_at_executables();
                retire_versions(live);
                if watchdog.is_some_and(|every| since_told.elapsed() >= every.saturating_sub(LOOK_EVERY)) {
                    since_told = Instant::now();
                    tell(notify, "WATCHDOG=1");
                }
            }
        }
    }
}

/// Has the stores erase what is beyond `keep_versions` and may not be read any more.
fn retire_versions(live: &Live) {
    for store in live.reloader.locals.iter().filter(|store| store.has_versions_to_retire()) {
        let store = Arc::clone(store);
        drop(tokio::task::spawn_blocking(move || match store.retire() {
            Ok(0) => {}
            Ok(secrets) => tracing::info!(secrets, "old versions were erased, as keep_versions asks"),
            Err(fault) => tracing::warn!(%fault, "old versions could not be erased"),
        }));
    }
}

async fn reload_by_signal(live: &Arc<Live>, notify: &Notify) {
    tell(notify, &format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
    let reloading = Arc::clone(live);
    let reloaded = tokio::task::spawn_blocking(move || {
        let done = reloading.reload();
        let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
        reloading.gate.record_act(&ourselves(), Operation::Reload, outcome, Some(Reason::Signal))
    })
    .await;
    if !matches!(reloaded, Ok(Ok(_))) {
        tracing::error!("the reload could not be recorded");
    }
    tell(notify, "READY=1");
    live.link.reloaded();
}
