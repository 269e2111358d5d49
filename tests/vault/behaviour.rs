//! The behaviour suite of every store, over the memory in front of a real server.

use std::sync::Arc;

use credfs::model::{FieldNode, Secret, SecretPath};
use credfs::store::{
    Change, Changed, Fetched, Login, Pending, Remote, RemoteOptions, Source, Store, StoreFault, StoreState,
    Vault, Wanted, Watcher,
};
use tokio::runtime::{Builder, Runtime};

use crate::bench;
use crate::harness::{Bao, options, token_login};
use crate::suite;

/// A store whose requests run where its connections live: the suite has a short runtime for each request.
struct Lasting {
    remote: Arc<Remote>,
    runtime: Runtime,
}

impl Lasting {
    fn of(source: Arc<dyn Source>, options: RemoteOptions) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { remote: Remote::open(source, options).unwrap(), runtime }
    }

    fn run<'a, T: Send + 'static>(
        &'a self,
        doing: impl Future<Output = T> + Send + 'static,
    ) -> Pending<'a, T> {
        let doing = self.runtime.spawn(doing);
        Box::pin(async move { doing.await.unwrap() })
    }
}

impl Store for Lasting {
    fn name(&self) -> &str {
        self.remote.name()
    }

    fn state(&self) -> StoreState {
        self.remote.state()
    }

    fn known(&self, login: &Login, path: &SecretPath) -> Option<Arc<Secret>> {
        self.remote.known(login, path)
    }

    fn visit_known(&self, login: &Login, prefix: &str, visit: &mut dyn FnMut(&Arc<Secret>) -> bool) {
        self.remote.visit_known(login, prefix, visit);
    }

    fn stale_for(&self, login: &Login, path: &SecretPath) -> std::time::Duration {
        self.remote.stale_for(login, path)
    }

    fn node(&self, node: FieldNode) -> Option<Wanted> {
        self.remote.node(node)
    }

    fn look_up<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Option<Arc<Secret>>, StoreFault>> {
        let (remote, login, path) = (Arc::clone(&self.remote), login.clone(), path.clone());
        self.run(async move { remote.look_up(&login, &path).await })
    }

    fn fetch_at_hand(&self, login: &Login, wanted: &Wanted) -> Option<Result<Fetched, StoreFault>> {
        self.remote.fetch_at_hand(login, wanted)
    }

    fn fetch<'a>(&'a self, login: &'a Login, wanted: &'a Wanted) -> Pending<'a, Result<Fetched, StoreFault>> {
        let (remote, login, wanted) = (Arc::clone(&self.remote), login.clone(), wanted.clone());
        self.run(async move { remote.fetch(&login, &wanted).await })
    }

    fn change<'a>(&'a self, login: &'a Login, change: Change) -> Pending<'a, Result<Changed, StoreFault>> {
        let (remote, login) = (Arc::clone(&self.remote), login.clone());
        self.run(async move { remote.change(&login, change).await })
    }

    fn watch(&self, watcher: Watcher) {
        self.remote.watch(watcher);
    }
}

/// A store in front of an engine of its own at the server.
fn store(bao: &Bao, mount: &str, kv: &str, directory: &bench::Directory) -> Arc<dyn Store> {
    bao.mount_kv(mount, kv);
    let token = directory.file("token");
    std::fs::write(&token, &bao.root).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let vault = Vault::new(options(&[&bao.url], mount, token_login(token)));
    Arc::new(Lasting::of(Arc::new(vault), RemoteOptions::new(directory.file("numbers"))))
}

fn passes(kv: &str, has: &[suite::Needs]) {
    let bao = Bao::dev();
    let made = std::cell::Cell::new(0);
    suite::all_by(bench::Hand::of_server, has, &|directory, _| {
        made.set(made.get() + 1);
        store(&bao, &format!("suite-{}", made.get()), kv, directory)
    });
}

#[test]
fn a_kv_engine_of_version_2_passes_the_suite() {
    passes("2", &[suite::Needs::Values, suite::Needs::Versions]);
}

/// It has neither stages nor states of versions: what needs them is refused by name (`plain.rs`).
#[test]
fn a_kv_engine_of_version_1_passes_what_it_can_express_of_the_suite() {
    passes("1", &[suite::Needs::Values]);
}
