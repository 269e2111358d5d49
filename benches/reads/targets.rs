//! What is measured: one iteration of each target, made anew for every client thread.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use crate::VALUE_BYTES;
use crate::agent::Server;

/// One iteration.
pub(crate) type Iteration = Box<dyn FnMut() + Send>;

/// One thing to measure.
pub(crate) struct Target {
    /// As the table calls it.
    pub(crate) name: &'static str,
    /// The process that serves it, if any.
    pub(crate) server: Option<u32>,
    /// The file that is read, if it is one.
    pub(crate) path: Option<PathBuf>,
    client: Box<dyn Fn() -> Iteration>,
}

impl Target {
    /// A client for one thread.
    pub(crate) fn client(&self) -> Iteration {
        (self.client)()
    }
}

/// open, fstat, read, close.
pub(crate) fn file(name: &'static str, path: PathBuf, server: Option<u32>) -> Target {
    let shown = path.clone();
    let client = move || -> Iteration {
        let path = path.clone();
        Box::new(move || {
            let mut buffer = [0_u8; VALUE_BYTES];
            let mut file = File::open(&path).unwrap();
            assert_eq!(file.metadata().unwrap().len(), VALUE_BYTES as u64);
            assert_eq!(file.read(&mut buffer).unwrap(), VALUE_BYTES);
        })
    };
    Target { name, server, path: Some(shown), client: Box::new(client) }
}

/// One byte to another process and back: what two switches of context and of address space cost.
pub(crate) fn ping_pong() -> Target {
    let client = || -> Iteration {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        let mut echo =
            command.arg("--serve-echo").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut ping, mut pong) = (echo.stdin.take().unwrap(), echo.stdout.take().unwrap());
        let echo = Server(echo);
        Box::new(move || {
            let _lives_as_long = &echo;
            let mut byte = [0];
            ping.write_all(&byte).unwrap();
            pong.read_exact(&mut byte).unwrap();
        })
    };
    Target { name: "pipe ping-pong", server: None, path: None, client: Box::new(client) }
}

/// Is the other end, until its standard input is closed.
pub(crate) fn serve_echo() -> ExitCode {
    let own = |descriptor: BorrowedFd<'_>| File::from(descriptor.try_clone_to_owned().unwrap());
    let (mut input, mut output) = (own(std::io::stdin().as_fd()), own(std::io::stdout().as_fd()));
    let mut byte = [0];
    while let Ok(1) = input.read(&mut byte) {
        if output.write_all(&byte).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// GET of one value from the loopback agent.
pub(crate) fn http(name: &'static str, port: u16, keep_alive: bool, server: u32) -> Target {
    let client = move || -> Iteration {
        let mut kept = keep_alive.then(|| connect(port));
        Box::new(move || match &mut kept {
            Some(stream) => get(stream),
            None => get(&mut connect(port)),
        })
    };
    Target { name, server: Some(server), path: None, client: Box::new(client) }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one answer: its head up to the empty line, then as many bytes as that says.
fn get(stream: &mut TcpStream) {
    stream.write_all(b"GET /v1/bench HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = [0_u8; 512];
    let mut filled = 0;
    loop {
        let received = stream.read(&mut answer[filled..]).unwrap();
        assert!(received > 0, "the agent closed the connection");
        filled += received;
        if let Some(head) = answer[..filled].windows(4).position(|four| four == b"\r\n\r\n")
            && filled >= head + 4 + VALUE_BYTES
        {
            return;
        }
    }
}
