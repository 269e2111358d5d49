//! The answering side of the control socket: one thread accepts, and a bounded number serve one connection each,
//! for as long as one deadline. Whoever connects is told from the kernel's word; the socket's mode lets everyone in.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::access::Actor;
use crate::caller::Identifier;
use crate::sys::peer::Peer;

use super::wire::{self, AnswerHeader, Greeting, PROTOCOL, RequestHeader, Timed};
use super::{Answer, CommandFault, Instance, Kind, Payload, execute};

/// How the socket is served.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where it is.
    pub socket: PathBuf,
    /// Connections served at once.
    pub connections_max: usize,
    /// Bytes of values that one request may bring.
    pub request_bytes_max: usize,
    /// How long one connection may take in all.
    pub deadline: Duration,
}

/// How long a client may take to send its request once it was greeted: it has everything at hand.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// How long an ending instance waits for a client that was greeted and has not asked yet.
const SILENCE_WAIT: Duration = Duration::from_millis(300);
/// Stack of a thread that serves one connection, in bytes.
const STACK_BYTES: usize = 512 * 1024;

struct Shared {
    options: ServerOptions,
    instance: Arc<Instance>,
    identifier: Arc<Identifier>,
    runtime: tokio::runtime::Handle,
    /// Guards how many connections each uid has.
    connected: Mutex<HashMap<u32, usize>>,
    ends: AtomicBool,
    /// Commands that were received and are not answered yet.
    under_way: AtomicUsize,
}

/// The control socket, being served.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes the socket's place, also where one that nobody serves is in the way, and serves it.
    ///
    /// # Errors
    /// What the file system reports; `AddrInUse` where another instance answers there.
    pub fn start(
        options: ServerOptions,
        instance: Arc<Instance>,
        identifier: Arc<Identifier>,
        runtime: tokio::runtime::Handle,
    ) -> io::Result<Self> {
        let listener = listen(&options.socket)?;
        let shared = Arc::new(Shared {
            options,
            instance,
            identifier,
            runtime,
            connected: Mutex::default(),
            ends: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::Builder::new()
            .name("control".into())
            .stack_size(STACK_BYTES)
            .spawn(move || accept(&accepting, &listener))?;
        Ok(Self { shared, accepting: Some(accepting) })
    }

    /// Stops accepting, waits for commands under way until `within` is over or `hurry` is set, and takes the socket
    /// away.
    pub fn stop(mut self, within: Duration, hurry: &AtomicBool) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the accepting thread. Where this fails nobody accepts any more.
        drop(UnixStream::connect(&self.shared.options.socket));
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
        {
            tracing::error!("the control socket's thread had failed");
        }
        if let Err(error) = std::fs::remove_file(&self.shared.options.socket) {
            tracing::warn!(%error, "could not take the control socket away");
        }
        let begun = Instant::now();
        while begun.elapsed() < within && !hurry.load(Ordering::SeqCst) {
            let is_silent = self.shared.under_way.load(Ordering::SeqCst) == 0;
            // Who was greeted and says nothing for so long will say nothing in time.
            if is_silent && (self.shared.connected.lock().is_empty() || begun.elapsed() > SILENCE_WAIT) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(socket) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket is in the way",
            ));
        }
        match UnixStream::connect(socket) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(socket)?,
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another instance answers there: stop that one",
                ));
            }
        }
    }
    let listener = UnixListener::bind(socket)?;
    // Everyone may ask; what he may have is decided by who he is.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    loop {
        let accepted = listener.accept();
        if shared.ends.load(Ordering::SeqCst) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept on the control socket");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let peer = match Peer::of(stream.as_fd()) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a peer of the control socket could not be told");
                continue;
            }
        };
        let Some(place) = Place::take(shared, peer.uid) else {
            tracing::debug!(uid = peer.uid, "too many connections to the control socket");
            refuse(&stream, "too many commands at once: try again");
            continue;
        };
        let spawned =
            std::thread::Builder::new().name("command".into()).stack_size(STACK_BYTES).spawn(move || {
                serve(&place.shared, &stream, &peer);
                drop(place);
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "could not serve a connection to the control socket");
        }
    }
}

/// One of the connections served at once. Root always finds one: the others never take the last two.
struct Place {
    shared: Arc<Shared>,
    uid: u32,
}

impl Place {
    fn take(shared: &Arc<Shared>, uid: u32) -> Option<Self> {
        let most = shared.options.connections_max;
        let mut connected = shared.connected.lock();
        let all: usize = connected.values().sum();
        let own = connected.get(&uid).copied().unwrap_or(0);
        let fits =
            if uid == 0 { all < most.max(1) } else { all + 2 < most.max(3) && own < (most / 4).max(1) };
        if !fits {
            return None;
        }
        *connected.entry(uid).or_default() += 1;
        Some(Self { shared: Arc::clone(shared), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.shared.connected.lock();
        if let Some(count) = connected.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.uid);
            }
        }
    }
}

fn refuse(stream: &UnixStream, message: &str) {
    let mut timed = Timed::new(stream, Duration::from_millis(100));
    let fault = CommandFault::new(Kind::StoreAway, message);
    // Who does not wait for a refusal does not get it.
    drop(wire::write_header(&mut timed, &Greeting::Fault(fault)));
}

fn serve(shared: &Shared, stream: &UnixStream, peer: &Peer) {
    let mut timed = Timed::new(stream, REQUEST_WAIT.min(shared.options.deadline));
    if wire::write_header(&mut timed, &Greeting::Ready { protocol: PROTOCOL }).is_err() {
        return;
    }
    let mut under_way = None;
    let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        answer(shared, &mut timed, peer, &mut under_way)
    }));
    let mut timed = Timed::new(stream, shared.options.deadline);
    let outcome = match answered {
        Ok(Ok((answer, payload))) => send(&mut timed, answer, payload),
        Ok(Err(fault)) => wire::write_header(&mut timed, &AnswerHeader::Fault(fault)),
        Err(_) => {
            tracing::error!("a command failed in an unforeseen way");
            let fault = CommandFault::failed("the instance failed in an unforeseen way: its log says where");
            wire::write_header(&mut timed, &AnswerHeader::Fault(fault))
        }
    };
    drop(under_way);
    if let Err(error) = outcome {
        tracing::debug!(uid = peer.uid, %error, "a client of the control socket went away");
    }
}

/// One command between its receipt and the end of its answer.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn answer<'a>(
    shared: &'a Shared,
    timed: &mut Timed<'_>,
    peer: &Peer,
    under_way: &mut Option<UnderWay<'a>>,
) -> Result<(Answer, Payload), CommandFault> {
    let malformed = |error: io::Error| {
        CommandFault::usage(format!(
            "the request was not understood: {error}; use the credfs of the same version"
        ))
    };
    let request: RequestHeader =
        wire::read_header(timed, wire::REQUEST_HEADER_BYTES_MAX).map_err(malformed)?;
    if request.protocol != PROTOCOL {
        return Err(CommandFault::usage(format!(
            "the instance speaks version {PROTOCOL} of the control protocol, this command {}: restart the instance",
            request.protocol
        )));
    }
    let count = request.command.value_count();
    let values = wire::read_values(timed, count, shared.options.request_bytes_max).map_err(malformed)?;
    shared.under_way.fetch_add(1, Ordering::SeqCst);
    *under_way = Some(UnderWay(&shared.under_way));
    let caller = shared
        .identifier
        .identify_peer(peer.uid, peer.gid, peer.pid, peer.process())
        .map_err(|fault| CommandFault::failed(fault.to_string()))?;
    let operation = request.command.operation();
    tracing::debug!(
        ?operation,
        uid = peer.uid,
        pid = peer.pid,
        values = values.len(),
        "asked by the control socket"
    );
    let done =
        shared.runtime.block_on(execute(&shared.instance, &Actor::Peer(&caller), request.command, values));
    tracing::debug!(?operation, uid = peer.uid, fault = ?done.as_ref().err().map(|fault| fault.kind), "answered");
    done
}

fn send(timed: &mut Timed<'_>, answer: Answer, payload: Payload) -> io::Result<()> {
    wire::write_header(timed, &AnswerHeader::Done(answer))?;
    match payload {
        Payload::Nothing => Ok(()),
        Payload::Values(values) => wire::write_values(timed, &values),
        Payload::File(mut file) => wire::write_file(timed, &mut file),
    }
}
