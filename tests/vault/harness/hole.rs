//! A machine that is not there any more, and says nothing to anybody: what asks it for a connection is not even refused.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

/// How long a connection is waited for that this machine would give at once.
const AT_ONCE: Duration = Duration::from_millis(300);
/// A queue for one is full after two, whatever the kernel takes it for.
const FILLING_MAX: usize = 8;

/// A port whose queue is full: the kernel drops the first packet of every further connection.
pub(crate) struct BlackHole {
    port: u16,
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
    /// The listener's.
    _runtime: Runtime,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        Self::at(0)
    }

    /// In the place of a server that listened there.
    #[track_caller]
    pub(crate) fn at(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            socket.listen(0).unwrap()
        };
        let address = listener.local_addr().unwrap();
        let mut filling = Vec::new();
        while let Ok(connection) = TcpStream::connect_timeout(&address, AT_ONCE) {
            filling.push(connection);
            assert!(filling.len() < FILLING_MAX, "this kernel does not drop what does not fit in a queue");
        }
        Self { port: address.port(), _listener: listener, _filling: filling, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
