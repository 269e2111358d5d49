//! A reference engine behind the `Source` trait: versioned, with its own idea of each login, and made to fail as planned.
//! What versions and stages do is the embedded store's own behaviour; what is tested with it is the memory in front.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use credfs::model::{FieldName, Secret, SecretBytes, SecretPath, Version};
use credfs::store::{
    Answer, Change, Child, DescribedVersion, Description, Login, LoginState, LoginStatus, Made, Pending,
    Source, SourceFault, Store, StoreFault, Values, Wanted,
};
use parking_lot::Mutex;

/// How an engine treats everyone.
#[derive(Clone, Default)]
pub(crate) enum Mood {
    /// It answers.
    #[default]
    Well,
    /// It fails so.
    Failing(StoreFault),
    /// It never answers.
    Silent,
    /// It answers after so long.
    Slow(Duration),
    /// It is busy, and asks to be left alone.
    LeaveAlone(Duration),
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Verb {
    Describe,
    Read,
    List,
    Change,
    Probe,
}

pub(crate) struct Engine {
    pub(crate) local: Arc<dyn Store>,
    /// Whether it says names and lengths of fields before they are read.
    pub(crate) says_fields: bool,
    /// Whether it says lengths, where it says names.
    pub(crate) says_lengths: bool,
    /// Whether it keeps one value alone and numbers none.
    pub(crate) keeps_one: bool,
    pub(crate) mood: Mutex<Mood>,
    /// Who is refused what; `None`: everything.
    refused: Mutex<BTreeSet<(String, Option<Verb>)>>,
    asked: Mutex<BTreeMap<Verb, u64>>,
    number: AtomicU64,
    pub(crate) under_way: AtomicU64,
    pub(crate) most_under_way: AtomicU64,
    /// Held while something is read: for what is to happen in the middle.
    pub(crate) gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
    pub(crate) was_logged_out: AtomicBool,
}

fn name_of(login: &Login) -> String {
    format!("{login:?}")
}

impl Engine {
    pub(crate) fn over(local: Arc<dyn Store>) -> Self {
        Self {
            local,
            says_fields: false,
            says_lengths: true,
            keeps_one: false,
            mood: Mutex::default(),
            refused: Mutex::default(),
            asked: Mutex::default(),
            number: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
            gate: Mutex::default(),
            was_logged_out: AtomicBool::new(false),
        }
    }

    pub(crate) fn feel(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    pub(crate) fn away(&self) {
        self.feel(Mood::Failing(StoreFault::Away("the engine is stopped".into())));
    }

    pub(crate) fn refuse(&self, login: &Login, verb: Option<Verb>) {
        self.refused.lock().insert((name_of(login), verb));
    }

    pub(crate) fn permit(&self, login: &Login) {
        self.refused.lock().retain(|(name, _)| *name != name_of(login));
    }

    pub(crate) fn asked(&self, verb: Verb) -> u64 {
        self.asked.lock().get(&verb).copied().unwrap_or(0)
    }

    pub(crate) fn asked_in_all(&self) -> u64 {
        self.asked.lock().values().sum()
    }

    async fn hear(&self, login: Option<&Login>, verb: Verb) -> Result<String, SourceFault> {
        struct UnderWay<'a>(&'a AtomicU64);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        *self.asked.lock().entry(verb).or_default() += 1;
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let _under_way = UnderWay(&self.under_way);
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        let id = format!("request-{}", self.number.fetch_add(1, Ordering::SeqCst) + 1);
        let mood = self.mood.lock().clone();
        let fault = match mood {
            Mood::Well => None,
            Mood::Failing(fault) => Some((fault, None)),
            Mood::Silent => std::future::pending().await,
            Mood::Slow(span) => {
                tokio::time::sleep(span).await;
                None
            }
            Mood::LeaveAlone(span) => Some((StoreFault::Busy("too many requests".into()), Some(span))),
        };
        if let Some((fault, retry_after)) = fault {
            return Err(SourceFault { fault, request_id: Some(id), retry_after });
        }
        let gate = self.gate.lock().clone();
        if let (Some(gate), Verb::Read) = (gate, verb) {
            gate.acquire().await.unwrap().forget();
        }
        if let Some(login) = login {
            let refused = self.refused.lock();
            let name = name_of(login);
            if refused.contains(&(name.clone(), None)) || refused.contains(&(name, Some(verb))) {
                let fault = StoreFault::Refused("permission denied".into());
                return Err(SourceFault { fault, request_id: Some(id), retry_after: None });
            }
        }
        Ok(id)
    }

    fn describe_now(&self, path: &SecretPath) -> Option<Description> {
        let secret = self.local.known(&Login::machine(), path)?;
        Some(self.description_of(&secret))
    }

    fn description_of(&self, secret: &Secret) -> Description {
        let versions = secret.versions.iter().map(|version| DescribedVersion {
            number: version.number,
            created: version.created,
            activated: version.activated,
            lost: version.lost,
            state: version.state,
            revoked: version.revoked,
            fields: self.says_fields.then(|| {
                version
                    .fields
                    .iter()
                    .map(|field| (field.name.clone(), field.bytes.filter(|_| self.says_lengths)))
                    .collect()
            }),
        });
        let keeps_all = !self.keeps_one;
        Description {
            versions: versions.filter(|_| keeps_all).collect(),
            current: secret.current.filter(|_| keeps_all),
            previous: secret.previous.filter(|_| keeps_all),
            next: secret.next.filter(|_| keeps_all),
            deleted: secret.deleted,
            changed: secret.changed,
            ownership: secret.ownership.clone(),
        }
    }
}

impl Source for Engine {
    fn name(&self) -> &str {
        "central"
    }

    fn describe<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
    ) -> Pending<'a, Result<Answer<Option<Description>>, SourceFault>> {
        Box::pin(async move {
            // As it is when it is asked: a slow answer is an old one.
            let content = self.describe_now(path);
            let id = self.hear(Some(login), Verb::Describe).await?;
            Ok(Answer { content, request_id: Some(id) })
        })
    }

    fn read<'a>(
        &'a self,
        login: &'a Login,
        path: &'a SecretPath,
        version: Option<Version>,
    ) -> Pending<'a, Result<Answer<Values>, SourceFault>> {
        Box::pin(async move {
            assert_eq!(version.is_none(), self.keeps_one, "asked as its kind is asked");
            let id = self.hear(Some(login), Verb::Read).await?;
            let secret = self.local.known(&Login::machine(), path);
            let secret = secret.ok_or_else(|| StoreFault::NoSecret(path.clone()))?;
            let number = version.or(secret.current).ok_or_else(|| StoreFault::NoSecret(path.clone()))?;
            let info = secret.version(number).ok_or_else(|| StoreFault::NoVersion(path.clone(), number))?;
            let mut fields: Vec<(FieldName, SecretBytes)> = Vec::new();
            for field in info.fields.iter() {
                let wanted = Wanted { secret: path.clone(), version: number, field: field.name.clone() };
                let fetched = self.local.fetch(&Login::machine(), &wanted).await?;
                // Its own copy: what it gives two logins are two answers.
                fields.push((
                    field.name.clone(),
                    SecretBytes::taken_from(&mut fetched.value.expose().to_vec()),
                ));
            }
            if fields.is_empty() {
                return Err(StoreFault::Destroyed(path.clone(), number).into());
            }
            Ok(Answer { content: Values { version, fields }, request_id: Some(id) })
        })
    }

    fn list<'a>(
        &'a self,
        login: &'a Login,
        folder: &'a str,
    ) -> Pending<'a, Result<Answer<Vec<Child>>, SourceFault>> {
        Box::pin(async move {
            let id = self.hear(Some(login), Verb::List).await?;
            let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let mut children = BTreeSet::new();
            self.local.visit_known(&Login::machine(), &below, &mut |secret| {
                let rest = &secret.path.as_str()[below.len()..];
                children.insert(match rest.split_once('/') {
                    Some((name, _)) => Child { name: name.into(), is_folder: true },
                    None => Child { name: rest.into(), is_folder: false },
                });
                true
            });
            Ok(Answer { content: children.into_iter().collect(), request_id: Some(id) })
        })
    }

    fn change<'a>(
        &'a self,
        login: &'a Login,
        change: Change,
    ) -> Pending<'a, Result<Answer<Made>, SourceFault>> {
        Box::pin(async move {
            let id = self.hear(Some(login), Verb::Change).await?;
            let changed = self.local.change(&Login::machine(), change).await?;
            let description = changed.after.as_deref().map(|secret| self.description_of(secret));
            let made = Made { version: changed.version, carried: changed.carried, description };
            Ok(Answer { content: made, request_id: Some(id) })
        })
    }

    fn probe(&self) -> Pending<'_, Result<(), SourceFault>> {
        Box::pin(async move { self.hear(None, Verb::Probe).await.map(drop) })
    }

    fn logins(&self) -> Vec<LoginStatus> {
        vec![LoginStatus {
            login: Login::machine(),
            method: "approle",
            state: LoginState::Valid,
            age: Some(Duration::from_secs(1)),
            remaining: Some(Duration::from_secs(3599)),
            is_ours: true,
            accessor: Some("accessor".into()),
        }]
    }

    fn log_out<'a>(&'a self, _login: &'a Login) -> Pending<'a, ()> {
        self.was_logged_out.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    }
}
