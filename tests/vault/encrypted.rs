//! TLS: whom the server must be, who we are, and that a token goes to nobody else.

use std::time::{Duration, Instant};

use credfs::store::{ClientCertificate, Login, LoginBy, LoginSetup, Source as _, StoreFault};
use serde_json::json;

use crate::harness::{
    Bao, Certificates, Directory, Impostor, Opened, Secured, free_port, options, token_login,
};

fn certificates() -> Certificates {
    let certificates = Certificates::new();
    certificates.make("server", "IP:127.0.0.1", "serverAuth");
    certificates.make("elsewhere", "DNS:vault.example", "serverAuth");
    certificates.make("orders", "DNS:orders", "clientAuth");
    certificates.make("stranger", "DNS:stranger", "clientAuth");
    certificates
}

fn server(certificates: &Certificates, port: u16) -> Bao {
    let bao = Bao::configured(port, Some(&Secured { certificates, shows: "server" }));
    bao.mount_kv("secret", "2");
    bao.tell("POST", "secret/data/s", &json!({"data": {"f": "value"}}));
    bao
}

#[test]
fn only_the_server_that_the_authority_vouches_for_is_spoken_to() {
    let certificates = certificates();
    let bao = server(&certificates, free_port());
    let opened = Opened::at(&bao, "secret");
    assert_eq!(opened.read(&Login::machine(), "s", Some(1)).unwrap()[0].1, b"value");
    let directory = Directory::new();
    let token = directory.file("token", &bao.root);
    let others = Certificates::new();
    for ca in [Some(others.ca()), None] {
        let mut options = options(&[&bao.url], "secret", token_login(token.clone()));
        options.http.ca_file = ca;
        let opened = Opened::with(options, Directory::new());
        let began = Instant::now();
        let fault = opened.read(&Login::machine(), "s", Some(1)).unwrap_err().fault;
        assert!(matches!(&fault, StoreFault::Away(text) if text.contains("certificate")), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    // A file that holds no certificate is named.
    let mut wrong = options(&[&bao.url], "secret", token_login(token.clone()));
    wrong.http.ca_file = Some(token.clone());
    let fault = Opened::with(wrong, Directory::new()).describe("s").unwrap_err().fault;
    assert!(fault.to_string().contains("no certificate in PEM form"), "{fault}");
}

#[test]
fn a_certificate_that_was_swapped_for_one_of_another_name_is_refused_and_the_right_one_is_taken_again() {
    let certificates = certificates();
    let port = free_port();
    let bao = server(&certificates, port);
    let opened = Opened::at(&bao, "secret");
    opened.read(&Login::machine(), "s", Some(1)).unwrap();
    drop(bao);
    let swapped = Impostor::at(port, &certificates, "elsewhere");
    let fault = opened.read(&Login::machine(), "s", Some(1)).unwrap_err().fault;
    assert!(matches!(&fault, StoreFault::Away(text) if text.contains("certificate")), "{fault}");
    assert_eq!(swapped.was_told(), b"", "nothing was said to it");
}

#[test]
fn a_client_certificate_logs_in_and_a_new_one_on_the_disk_is_taken() {
    let certificates = certificates();
    let bao = server(&certificates, free_port());
    bao.policy("reader", "path \"secret/data/*\" { capabilities = [\"read\"] }");
    bao.tell("POST", "sys/auth/cert", &json!({"type": "cert"}));
    bao.tell("POST", "auth/cert/certs/orders", &json!({
        "certificate": certificates.text("ca"), "allowed_dns_sans": ["orders"], "token_policies": ["reader"], "token_ttl": "3s",
    }));
    let directory = Directory::new();
    let use_files = |of: &str| {
        let (cert, key) = certificates.files(of);
        let read = |path| std::fs::read_to_string(path).unwrap();
        (read(cert), read(key))
    };
    let (cert, key) = use_files("stranger");
    let own =
        ClientCertificate { cert_file: directory.file("cert", &cert), key_file: directory.file("key", &key) };
    let login = LoginSetup {
        method: LoginBy::Cert { role: Some("orders".to_owned()), certificate: Some(own) },
        mount: None,
        namespace: None,
    };
    let mut options = options(&[&bao.url], "secret", login);
    options.http.ca_file = Some(certificates.ca());
    let opened = Opened::with(options, directory);
    let fault = opened.read(&Login::machine(), "s", Some(1)).unwrap_err().fault;
    assert!(matches!(&fault, StoreFault::Refused(text) if text.contains("cert")), "{fault}");
    let (cert, key) = use_files("orders");
    opened.directory.file("cert", &cert);
    opened.directory.file("key", &key);
    std::thread::sleep(Duration::from_millis(1400));
    opened.read(&Login::machine(), "s", Some(1)).unwrap();
    // It is renewed with the certificate that it was made with.
    let accessor = opened.vault.logins()[0].accessor.clone();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        opened.read(&Login::machine(), "s", Some(1)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(opened.vault.logins()[0].accessor, accessor);
}
