//! The HTTP agent to compare with: a process of its own, a thread for each connection, HTTP/1.1 with keep-alive, nothing
//! between the socket and the value. A real agent does more, so it is a hard baseline.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::VALUE_BYTES;

/// A process of ours that ends when this is dropped.
pub(crate) struct Server(pub(crate) Child);

impl Server {
    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A running agent.
pub(crate) struct Agent {
    /// On the loopback.
    pub(crate) port: u16,
    /// Its process.
    pub(crate) server: Server,
}

/// Starts this program again as the agent and waits for its port.
pub(crate) fn start() -> Agent {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program)
        .arg("--serve-agent")
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut port).unwrap();
    Agent { port: u16::from_le_bytes(port), server: Server(child) }
}

/// Is the agent, until its standard input is closed.
pub(crate) fn serve() -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::io::stdout().write_all(&port.to_le_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    ExitCode::SUCCESS
}

fn answer(mut stream: TcpStream) {
    let value = "x".repeat(VALUE_BYTES);
    // The headers that hyper sends of itself, which an agent built on it (AWS's) therefore sends.
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\n";
    let answer = format!("{head}content-length: {VALUE_BYTES}\r\n\r\n{value}");
    stream.set_nodelay(true).ok();
    let mut request = [0_u8; 1024];
    let mut filled = 0;
    while let Ok(received @ 1..) = stream.read(&mut request[filled..]) {
        filled += received;
        if request[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
