//! One instance, from its start to its end: open, mount, answer, reload, drain, unmount.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::signal::unix::{SignalKind, signal};

use crate::access::Gate;
use crate::caller::{self, Identifier, ProcExecutables};
use crate::config::Config;
use crate::control::{
    Answer, CommandFault, Contact, Instance, Kind, Running, Server, ServerOptions, StatusAnswer, StoreStatus,
};
use crate::fuse::{self, PaceLimits, Session};
use crate::model::{Operation, Outcome, Reason};
use crate::store::StoreState;
use crate::sys::mount;
use crate::sys::notify::{Notify, monotonic_us};
use crate::sys::{harden, memory};
use crate::tree::{self, Tree};

use super::reload::Reloader;
use super::rooms::{self, Rooms, check, load_policy, size};
use super::{Surroundings, init, ourselves};

/// How long a starting instance waits for a command that has the files open.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long a mount found in the way may take to say that it is alive.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// How often the instance looks whether it is still mounted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Stack of the runtime's threads, in bytes: SQLite and one command fit many times over.
const STACK_BYTES: usize = 512 * 1024;

/// What is done with an instance beyond serving it.
pub struct Serving<'a> {
    /// The configuration file.
    pub config: &'a Path,
    /// What systemd said.
    pub surroundings: &'a Surroundings,
    /// Whether SIGHUP ends it, as where a terminal is closed, instead of reloading.
    pub hangup_ends: bool,
    /// Done when the rooms are open and nobody is served yet.
    pub before: &'a mut dyn FnMut(&Instance, &tokio::runtime::Runtime) -> Result<(), CommandFault>,
    /// Done when everyone is served.
    pub ready: &'a mut dyn FnMut(&Config),
}

/// What `status` and `reload` need of an instance that serves.
struct Live {
    gate: Arc<Gate>,
    config: Config,
    reloader: Reloader,
    /// Guards the session and the tree, which are there while it serves.
    served: RwLock<Option<(Session, Arc<Tree>)>>,
    is_stopping: AtomicBool,
    started: String,
}

impl Running for Live {
    fn status(&self) -> StatusAnswer {
        let served = self.served.read();
        let counts = served.as_ref().map(|(_, tree)| tree.counts());
        let stores: Vec<StoreStatus> = self
            .gate
            .places()
            .stores()
            .into_iter()
            .map(|store| StoreStatus { name: store.name().to_owned(), state: store.state() })
            .collect();
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
        } else if stores.iter().any(|store| store.state != StoreState::Ready) {
            ("degraded", Some("a store cannot be used: `credfs doctor` says why"))
        } else {
            ("serving", None)
        };
        let policy = self.gate.policy();
        StatusAnswer {
            state: state.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mount_point: Some(self.config.mount_point.clone()),
            worker_pid: Some(std::process::id()),
            keeper_pid: None,
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

/// Serves until a signal or an unmount ends it.
///
/// # Errors
/// [`CommandFault`]: nothing stays mounted or open then.
pub fn serve(serving: Serving<'_>) -> Result<(), CommandFault> {
    let (config, loaded) = check(serving.config)
        .and_then(|config| load_policy(&config).map(|loaded| (config, loaded)))
        .map_err(|faults| CommandFault::invalid(&faults))?;
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
    refuse_a_second(&config)?;
    let executables = loaded.policy.executables();
    let rooms = rooms::open(&config, serving.surroundings, Some(loaded.policy), LOCK_WAIT)
        .map_err(rooms::OpenTrouble::into_fault)?;
    let Rooms { gate, locals, opened } = rooms;
    if let Some(fingerprint) = opened.new_chain {
        tracing::warn!(%fingerprint, "a new audit chain begins: keep its fingerprint elsewhere");
    }
    let identifier = Arc::new(identifier(&config)?);
    identifier.watch_executables(&executables);
    let _receipt = gate.record_act(&ourselves(), Operation::Start, Outcome::Done, Some(Reason::Command))?;
    let live = Arc::new(Live {
        gate: Arc::clone(&gate),
        reloader: Reloader {
            gate: Arc::clone(&gate),
            identifier: Arc::clone(&identifier),
            locals: locals.values().map(|local| Arc::clone(&local.store)).collect(),
            config: Mutex::new(config.clone()),
            public_entry_lifetime: config.limits.directory_life,
        },
        served: RwLock::new(None),
        is_stopping: AtomicBool::new(false),
        started: gate.now().rfc3339(),
        config,
    });
    let running: Arc<dyn Running> = Arc::clone(&live) as Arc<dyn Running>;
    let instance = Arc::new(Instance { gate, locals, running: Some(running) });
    (serving.before)(&instance, &runtime)?;
    let ended = run(&live, &instance, &identifier, &runtime, serving);
    // What is still under way is bounded by its own deadline; it must not outlive the log.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// One instance for each configuration: a second one says so at once, and not by the locks that it would wait for.
fn refuse_a_second(config: &Config) -> Result<(), CommandFault> {
    let socket = &config.control.socket;
    let Ok(Contact::Made(_) | Contact::Full(_)) = Contact::make(socket) else { return Ok(()) };
    Err(CommandFault::new(
        Kind::Exists,
        format!(
            "an instance of this configuration is already running (it answers at {}): use credfs reload, or stop it \
             first",
            socket.display()
        ),
    ))
}

fn run(
    live: &Arc<Live>,
    instance: &Arc<Instance>,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
    serving: Serving<'_>,
) -> Result<(), CommandFault> {
    // Before anything is mounted: a signal that comes while we start is kept for the loop, and ends us in order.
    let mut signals = runtime.block_on(async { Signals::new() }).map_err(|error| cannot_serve(&error))?;
    mount_tree(live, identifier, runtime)?;
    let served = control_socket(&live.config, instance, identifier, runtime);
    let server = match served {
        Ok(server) => server,
        Err(fault) => {
            unmount(live);
            return Err(fault);
        }
    };
    let notify = Notify::to(serving.surroundings.notify_socket.as_deref());
    tell(&notify, &format!("READY=1\nMAINPID={}", std::process::id()));
    tracing::info!(mount_point = %live.config.mount_point.display(), "serving");
    (serving.ready)(&live.config);
    let end = runtime.block_on(watch_over(live, &mut signals, &notify, &serving));
    live.is_stopping.store(true, Ordering::Relaxed);
    tell(&notify, "STOPPING=1");
    // Whoever signals a second time does not want to wait for commands that are under way.
    let hurry = Arc::new(AtomicBool::new(false));
    let hurried = Arc::clone(&hurry);
    runtime.spawn(async move {
        signals.end().await;
        hurried.store(true, Ordering::SeqCst);
    });
    server.stop(live.config.limits.shutdown_deadline, &hurry);
    unmount(live);
    let stopped = live.gate.record_act(&ourselves(), Operation::Stop, Outcome::Done, Some(end.reason()));
    tracing::info!("stopped");
    match end {
        End::Signal => stopped.map(drop).map_err(CommandFault::from),
        End::Unmounted => Err(CommandFault::failed(format!(
            "{} was unmounted by somebody else: start the instance again",
            live.config.mount_point.display()
        ))),
    }
}

fn cannot_serve(error: &dyn std::fmt::Display) -> CommandFault {
    CommandFault::failed(format!("cannot serve: {error}"))
}

fn identifier(config: &Config) -> Result<Identifier, CommandFault> {
    let executables =
        ProcExecutables::new(config.limits.executable_bytes_max, size(config.limits.executables_max));
    let options = caller::Options {
        // One descriptor each: the log, the store and the socket need theirs too, however few there are.
        threads_max: size(config.limits.callers_max.min(harden::open_files_max() / 4)),
        executables_max: size(config.limits.executables_max),
        ..caller::Options::default()
    };
    Identifier::new(options, Arc::new(executables))
        .map_err(|error| CommandFault::failed(format!("callers cannot be told: {error}; is /proc mounted?")))
}

fn mount_tree(
    live: &Live,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
) -> Result<(), CommandFault> {
    let config = &live.config;
    init::make_mount_point(&config.mount_point)?;
    match mount::clear_stale(&config.mount_point, PROBE_WAIT) {
        Ok(0) => {}
        Ok(count) => tracing::warn!(count, "a dead mount was in the way and was taken away"),
        Err(fault) => return Err(CommandFault::failed(fault.to_string())),
    }
    let tree = Tree::new(
        Arc::clone(&live.gate),
        tree::Options {
            public_entry_lifetime: config.limits.directory_life,
            attribute_lifetime: Duration::from_secs(3600),
            handles_max: size(config.limits.handles_max),
            directory_uid: harden::own_uid(),
            directory_gid: harden::own_gid(),
        },
    );
    let options = fuse::Options {
        mount_point: config.mount_point.clone(),
        allow_other: harden::own_uid() == 0 || users_may_allow_others(),
        loop_threads: size(config.limits.threads_max),
        audit_wait: config.limits.audit_wait,
        request_deadline: config.limits.request_deadline,
        pace: PaceLimits {
            refusals_per_second: 2_000,
            refusals_burst: 5_000,
            delay_max: Duration::from_millis(20),
        },
    };
    let session = Session::mount(&tree, Arc::clone(identifier), runtime.handle().clone(), &options)
        .map_err(|fault| CommandFault::failed(fault.to_string()))?;
    *live.served.write() = Some((session, tree));
    Ok(())
}

/// Whether fusermount3 lets a plain user share his mount (fuse.conf(5)).
fn users_may_allow_others() -> bool {
    let text = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}

fn unmount(live: &Live) {
    let served = live.served.write().take();
    if let Some((session, tree)) = served {
        session.unmount();
        drop(tree);
    }
}

fn control_socket(
    config: &Config,
    instance: &Arc<Instance>,
    identifier: &Arc<Identifier>,
    runtime: &tokio::runtime::Runtime,
) -> Result<Server, CommandFault> {
    let socket = &config.control.socket;
    if let Some(directory) = socket.parent().filter(|directory| !directory.exists()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).and_then(|()| {
            // The umask is for secrets; everyone may come as far as the socket.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
        });
        made.map_err(|error| {
            CommandFault::failed(format!("{} cannot be made: {error}", directory.display()))
        })?;
    }
    let options = ServerOptions {
        socket: socket.clone(),
        connections_max: size(config.limits.control_connections_max),
        request_bytes_max: size(config.limits.control_request_bytes_max),
        deadline: config.limits.control_deadline,
    };
    Server::start(options, Arc::clone(instance), Arc::clone(identifier), runtime.handle().clone()).map_err(
        |error| {
            let kind =
                if error.kind() == std::io::ErrorKind::AddrInUse { Kind::Exists } else { Kind::Failed };
            let remedy = if error.kind() == std::io::ErrorKind::InvalidInput {
                "; a socket's path has at most 107 bytes: set control.socket to a shorter one"
            } else {
                ""
            };
            CommandFault::new(
                kind,
                format!("the control socket {} cannot be made: {error}{remedy}", socket.display()),
            )
        },
    )
}

fn tell(notify: &Notify, state: &str) {
    if let Err(error) = notify.send(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Why an instance ends.
enum End {
    Signal,
    Unmounted,
}

impl End {
    const fn reason(&self) -> Reason {
        match self {
            Self::Signal => Reason::Signal,
            Self::Unmounted => Reason::Error,
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// A signal that ends us.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn watch_over(live: &Arc<Live>, signals: &mut Signals, notify: &Notify, serving: &Serving<'_>) -> End {
    // Half the time that systemd gives us, as sd_watchdog_enabled(3) advises.
    let watchdog = serving.surroundings.watchdog_usec.map(|micros| Duration::from_micros(micros / 2));
    let mut told = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY.min(watchdog.unwrap_or(LOOK_EVERY)));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return End::Signal,
            _ = signals.interrupt.recv() => return End::Signal,
            _ = signals.hangup.recv() => {
                if serving.hangup_ends {
                    return End::Signal;
                }
                reload_by_signal(live, notify).await;
            }
            _ = looks.tick() => {
                if !live.served.read().as_ref().is_some_and(|(session, _)| session.is_serving()) {
                    return End::Unmounted;
                }
                live.reloader.identifier.look_at_executables();
                retire_versions(live);
                if watchdog.is_some_and(|every| told.elapsed() >= every.saturating_sub(LOOK_EVERY)) {
                    told = Instant::now();
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
}
