//! Everything that the program, and the libraries it uses, would have logged.

use std::io::Write;
use std::sync::{Mutex, OnceLock};

static HEARD: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();

struct Ear;

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        HEARD.get_or_init(Mutex::default).lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Listens from the first call on, at the finest level, and gives what was heard since.
pub(crate) fn heard() -> String {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| Ear)
            .init();
    });
    String::from_utf8_lossy(&HEARD.get_or_init(Mutex::default).lock().unwrap()).into_owned()
}
