//! What stands between credfs and the server: hands requests on to the real one, but for those that are to go wrong. It
//! notes what it was sent, so that a test can say what never was.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is done with a request.
#[derive(Clone)]
pub(crate) enum Does {
    /// The real server answers.
    HandOn,
    /// This is the answer, byte for byte; then the connection ends.
    Say(Vec<u8>),
    /// This is the beginning of the answer, over and over until the other side has enough of it.
    Flood(Vec<u8>),
    /// Nothing is said.
    Nothing,
}

impl Does {
    /// An answer with a status, headers and a body.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Self::Say(text.into_bytes())
    }
}

type Choice = Box<dyn Fn(&str) -> Does + Send>;

/// Listens until it is dropped.
pub(crate) struct Between {
    port: u16,
    is_over: Arc<AtomicBool>,
    /// Heads and bodies of all requests.
    seen: Arc<Mutex<Vec<String>>>,
    choice: Arc<Mutex<Choice>>,
    listening: Option<JoinHandle<()>>,
}

impl Between {
    /// Stands in front of the server at `url`.
    pub(crate) fn in_front_of(url: &str) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let choice: Arc<Mutex<Choice>> = Arc::new(Mutex::new(Box::new(|_| Does::HandOn)));
        let (over, noted, chosen) = (Arc::clone(&is_over), Arc::clone(&seen), Arc::clone(&choice));
        let listening = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let (noted, chosen, server) = (Arc::clone(&noted), Arc::clone(&chosen), server.clone());
                let over = Arc::clone(&over);
                std::thread::spawn(move || serve(connection, &noted, &chosen, &server, &over));
            }
        });
        Self { port, is_over, seen, choice, listening: Some(listening) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Decides from now on by the first line of a request.
    pub(crate) fn decide(&self, choice: impl Fn(&str) -> Does + Send + 'static) {
        *self.choice.lock().unwrap() = Box::new(choice);
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests had this in their first line.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|request| request.lines().next().unwrap_or("").contains(part)).count()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let _ = self.listening.take().unwrap().join();
    }
}

fn serve(
    mut connection: TcpStream,
    seen: &Mutex<Vec<String>>,
    choice: &Mutex<Choice>,
    server: &str,
    is_over: &AtomicBool,
) {
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let Some(request) = read_request(&mut connection) else { return };
    seen.lock().unwrap().push(request.clone());
    let does = choice.lock().unwrap()(request.lines().next().unwrap_or(""));
    match does {
        Does::HandOn => {
            let Ok(mut real) = TcpStream::connect(server) else { return };
            let once = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            let mut answer = Vec::new();
            if real.write_all(once.as_bytes()).is_ok() && real.read_to_end(&mut answer).is_ok() {
                let _ = connection.write_all(&answer);
            }
        }
        Does::Say(answer) => {
            let _ = connection.write_all(&answer);
        }
        Does::Flood(answer) => while connection.write_all(&answer).is_ok() {},
        Does::Nothing => {
            let mut rest = [0; 64];
            while !is_over.load(Ordering::Relaxed) && connection.read(&mut rest).is_ok_and(|count| count > 0)
            {
            }
        }
    }
}

fn read_request(connection: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text[..end].to_ascii_lowercase().lines().find_map(|line| {
                line.strip_prefix("content-length:").and_then(|length| length.trim().parse::<usize>().ok())
            });
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match connection.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

/// A port that takes connections and says nothing: its listener's queue holds them. Closed when the listener is dropped.
pub(crate) fn silent_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}
