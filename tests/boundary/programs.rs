//! Programs that read a file and nothing else: interpreters, the JVM, OpenSSL; each with no change and no wrapper.

use crate::harness::{ALICE, Asker, Instance, PYTHON, Program};

/// A self-signed certificate for localhost and its key, as PEM.
pub(crate) struct TlsPair {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl TlsPair {
    pub(crate) fn make(instance: &Instance) -> Self {
        let (certificate, key) = (instance.file("made.crt"), instance.file("made.key"));
        let mut words = vec!["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
        words.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        words.extend(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
        words.extend(["-out", &certificate, "-keyout", &key]);
        Program::of(&words).run().ok();
        let pair = Self {
            certificate: std::fs::read(&certificate).expect("a certificate"),
            key: std::fs::read(&key).expect("a key"),
        };
        std::fs::remove_file(certificate).expect("removed");
        std::fs::remove_file(key).expect("removed");
        pair
    }

    /// Stores it, and leaves the certificate where clients find it; that place.
    pub(crate) fn put(&self, instance: &Instance, secret: &str) -> String {
        instance.put(secret, &[("cert", &self.certificate), ("key", &self.key)]);
        let trusted = instance.file("trusted.crt");
        std::fs::write(&trusted, &self.certificate).expect("written");
        trusted
    }
}

fn with_tls() -> Instance {
    let instance = Instance::start();
    TlsPair::make(&instance).put(&instance, "prod/tls");
    instance
}

#[test]
fn python_reads_by_open_pathlib_and_ssl() {
    let instance = with_tls();
    let script = "
import pathlib, ssl, sys, tomllib, io
directory = pathlib.Path(sys.argv[1])
key = (directory / 'key').read_bytes()
assert key == open(directory / 'key', 'rb').read() == open(directory / 'key', 'rb', buffering=0).read()
assert (directory / 'key').stat().st_size == len(key)
assert list(open(directory / 'key'))[0].startswith('-----BEGIN')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory / 'cert', directory / 'key')
print('all the same')
";
    let text = Asker::uid(ALICE).python(script, &[&instance.path("prod/tls")]);
    assert_eq!(text, "all the same");
    assert!(std::path::Path::new(PYTHON).exists());
}

#[test]
fn node_reads_by_read_file_sync_promises_and_streams() {
    let instance = with_tls();
    let script = "
const fs = require('fs'), crypto = require('crypto'), tls = require('tls');
const directory = process.argv[1];
(async () => {
  const key = fs.readFileSync(directory + '/key');
  const later = await fs.promises.readFile(directory + '/key');
  const pieces = [];
  for await (const piece of fs.createReadStream(directory + '/key', { highWaterMark: 100 })) pieces.push(piece);
  if (!key.equals(later) || !key.equals(Buffer.concat(pieces))) throw new Error('they differ');
  if (fs.statSync(directory + '/key').size !== key.length) throw new Error('the size differs');
  crypto.createPrivateKey(key);
  tls.createSecureContext({ key, cert: fs.readFileSync(directory + '/cert') });
  console.log('all the same');
})();
";
    let done = Asker::uid(ALICE).run(&["/usr/bin/node", "-e", script, &instance.path("prod/tls")]).ok();
    assert_eq!(done.text(), "all the same");
}

#[test]
fn openssl_reads_certificate_and_key() {
    let instance = with_tls();
    let alice = Asker::uid(ALICE);
    let certificate = instance.path("prod/tls/current/cert");
    let key = instance.path("prod/tls/current/key");
    let of_certificate =
        alice.run(&["openssl", "x509", "-in", &certificate, "-noout", "-pubkey"]).ok().text();
    let of_key = alice.run(&["openssl", "pkey", "-in", &key, "-pubout"]).ok().text();
    assert_eq!(of_certificate, of_key);
}

const JAVA_READER: &str = r#"
import java.io.*;
import java.nio.*;
import java.nio.channels.FileChannel;
import java.nio.file.*;
import java.security.KeyStore;
import java.util.Arrays;

public class Reader {
    public static void main(String[] arguments) throws Exception {
        Path path = Path.of(arguments[0]);
        byte[] all = Files.readAllBytes(path);
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            MappedByteBuffer mapped = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
            byte[] bytes = new byte[mapped.remaining()];
            mapped.get(bytes);
            if (!Arrays.equals(all, bytes)) throw new IOException("the mapping differs");
        }
        if (path.toFile().length() != all.length) throw new IOException("the length differs");
        KeyStore store = KeyStore.getInstance(path.toFile(), arguments[1].toCharArray());
        if (store.getKey("orders", arguments[1].toCharArray()) == null) throw new IOException("no key");
        System.out.println("key found");
    }
}
"#;

#[test]
fn keytool_and_a_java_program_read_a_keystore() {
    let instance = Instance::start();
    let made = instance.file("made.p12");
    let mut words =
        vec!["keytool", "-genkeypair", "-alias", "orders", "-dname", "CN=orders", "-keyalg", "EC"];
    words.extend(["-storetype", "PKCS12", "-storepass", "changeit", "-keystore", &made]);
    Program::of(&words).limit(std::time::Duration::from_secs(60)).run().ok();
    let keystore = std::fs::read(&made).expect("a keystore");
    instance.put("prod/java", &[("keystore.p12", &keystore)]);
    let path = instance.path("prod/java/keystore.p12");
    let alice = Asker::uid(ALICE);
    let list = ["keytool", "-J-XX:-UsePerfData", "-list", "-keystore", &path, "-storepass", "changeit"];
    let listed = alice.program(&list).limit(std::time::Duration::from_secs(60)).run().ok();
    assert!(listed.text().contains("orders, "), "{}", listed.text());
    let source = instance.file("Reader.java");
    std::fs::write(&source, JAVA_READER).expect("the program");
    let run = ["java", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", &source, &path, "changeit"];
    let done = alice.program(&run).limit(std::time::Duration::from_secs(90)).run().ok();
    assert_eq!(done.text(), "key found");
}
