//! A certificate authority of the test's own, made by openssl.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Directory;

/// Certificates in a directory of their own.
pub(crate) struct Certificates(Directory);

impl Certificates {
    pub(crate) fn new() -> Self {
        let made = Self(Directory::new());
        let (cert, key) = made.files("ca");
        made.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-addext",
            "basicConstraints=critical,CA:true",
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            cert.to_str().unwrap(),
        ]);
        made
    }

    /// Makes a certificate for a name or an address, by the name of its files.
    pub(crate) fn make(&self, file: &str, alternative: &str, use_for: &str) {
        let (cert, key) = self.files(file);
        let (ca_cert, ca_key) = self.files("ca");
        let request = self.0.path().join(format!("{file}.csr"));
        let extensions = self.0.file(
            &format!("{file}.ext"),
            &format!("subjectAltName={alternative}\nextendedKeyUsage={use_for}\nbasicConstraints=CA:false\n"),
        );
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={file}"),
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            request.to_str().unwrap(),
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            request.to_str().unwrap(),
            "-CA",
            ca_cert.to_str().unwrap(),
            "-CAkey",
            ca_key.to_str().unwrap(),
            "-CAcreateserial",
            "-extfile",
            extensions.to_str().unwrap(),
            "-out",
            cert.to_str().unwrap(),
        ]);
    }

    pub(crate) fn files(&self, file: &str) -> (PathBuf, PathBuf) {
        (self.0.path().join(format!("{file}.pem")), self.0.path().join(format!("{file}.key")))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.files("ca").0
    }

    pub(crate) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.files(file).0).unwrap()
    }

    fn openssl(&self, arguments: &[&str]) {
        let made = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(made.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
    }
}

/// A server of TLS that shows a certificate, and keeps what it is told.
pub(crate) struct Impostor {
    child: std::process::Child,
    directory: Directory,
}

impl Impostor {
    /// Listens on `port` and shows the certificate of that name.
    pub(crate) fn at(port: u16, certificates: &Certificates, shows: &str) -> Self {
        let directory = Directory::new();
        let (cert, key) = certificates.files(shows);
        let mut words = Command::new("setpriv");
        words.args(["--pdeathsig", "KILL", "openssl", "s_server", "-quiet", "-accept"]);
        words.arg(port.to_string()).arg("-cert").arg(cert).arg("-key").arg(key);
        let said = std::fs::File::create(directory.path().join("said")).unwrap();
        let child = words.stdin(Stdio::piped()).stdout(said).stderr(Stdio::null()).spawn().unwrap();
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(5));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { child, directory }
    }

    /// All that it was told behind the handshake.
    pub(crate) fn was_told(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("said")).unwrap()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
