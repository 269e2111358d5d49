//! The store as a test opens and asks it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use credfs::model::{FieldName, Ownership, SecretBytes, SecretPath, Stage, Version};
use credfs::store::{
    Address, Change, Description, HttpOptions, Login, LoginBy, LoginSetup, Made, Source as _, SourceFault,
    StoreFault, Vault, VaultOptions,
};
use tokio::runtime::Runtime;

use super::{Bao, Directory};

/// A store, the threads it runs on, and the files it reads.
pub(crate) struct Opened {
    pub(crate) vault: Vault,
    pub(crate) directory: Directory,
    runtime: Runtime,
}

pub(crate) fn path(text: &str) -> SecretPath {
    SecretPath::from_store(text).unwrap()
}

pub(crate) fn field(name: &str) -> FieldName {
    FieldName::from_store(name).unwrap()
}

pub(crate) fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

pub(crate) fn token_login(file: PathBuf) -> LoginSetup {
    LoginSetup { method: LoginBy::Token { token_file: file }, mount: None, namespace: None }
}

/// The usual options for servers at these addresses.
pub(crate) fn options(urls: &[&str], mount: &str, machine_login: LoginSetup) -> VaultOptions {
    let mut http = HttpOptions::new(urls.iter().map(|url| Address::parse(url).unwrap()).collect());
    http.connect_deadline = Duration::from_millis(500);
    http.request_deadline = Duration::from_secs(2);
    VaultOptions {
        name: "central".to_owned(),
        http,
        namespace: None,
        mount: mount.to_owned(),
        machine_login,
        logins: BTreeMap::new(),
        own_login_required: false,
    }
}

pub(crate) fn put(secret: &str, fields: &[(&str, &[u8])]) -> Change {
    staged(secret, fields, Stage::Current)
}

pub(crate) fn put_staged(secret: &str, fields: &[(&str, &[u8])]) -> Change {
    staged(secret, fields, Stage::Next)
}

fn staged(secret: &str, fields: &[(&str, &[u8])], stage: Stage) -> Change {
    let fields =
        fields.iter().map(|(name, bytes)| (field(name), SecretBytes::taken_from(&mut bytes.to_vec())));
    Change::Put {
        secret: path(secret),
        fields: fields.collect(),
        only: false,
        stage,
        ownership: Ownership::default(),
    }
}

/// The value of one field as text, or the fault.
pub(crate) fn read_text(
    opened: &Opened,
    secret: &str,
    number: u32,
    name: &str,
) -> Result<String, StoreFault> {
    let read = opened.read(&Login::machine(), secret, Some(number)).map_err(|fault| fault.fault)?;
    let (_, value) = read.iter().find(|(found, _)| found == name).unwrap();
    Ok(String::from_utf8(value.clone()).unwrap())
}

impl Opened {
    /// The store at one server, with root's token.
    pub(crate) fn at(bao: &Bao, mount: &str) -> Self {
        let directory = Directory::new();
        let token = directory.file("token", &format!("{}\n", bao.root));
        let mut options = options(&[&bao.url], mount, token_login(token));
        options.http.ca_file = bao.ca().map(PathBuf::from);
        Self::with(options, directory)
    }

    pub(crate) fn with(options: VaultOptions, directory: Directory) -> Self {
        super::heard();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { vault: Vault::new(options), directory, runtime }
    }

    pub(crate) fn run<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }

    pub(crate) fn describe(&self, secret: &str) -> Result<Option<Description>, SourceFault> {
        self.run(self.vault.describe(&Login::machine(), &path(secret))).map(|answer| answer.content)
    }

    #[track_caller]
    pub(crate) fn known(&self, secret: &str) -> Description {
        self.describe(secret).unwrap().unwrap()
    }

    /// Names and bytes of all fields.
    pub(crate) fn read(
        &self,
        login: &Login,
        secret: &str,
        number: Option<u32>,
    ) -> Result<Vec<(String, Vec<u8>)>, SourceFault> {
        let answer = self.run(self.vault.read(login, &path(secret), number.map(version)))?;
        let fields = answer.content.fields.iter();
        Ok(fields.map(|(name, value)| (name.as_str().to_owned(), value.expose().to_vec())).collect())
    }

    pub(crate) fn change(&self, change: Change) -> Result<Made, SourceFault> {
        self.run(self.vault.change(&Login::machine(), change)).map(|answer| answer.content)
    }

    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let listed = self.run(self.vault.list(&Login::machine(), folder)).unwrap().content;
        listed
            .into_iter()
            .map(|child| if child.is_folder { format!("{}/", child.name) } else { child.name })
            .collect()
    }
}
