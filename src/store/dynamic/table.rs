//! What is minted and for whom, and which numbers are promised to whom: without a clock, a file or an engine.
//!
//! Every version of every declared path has a number of its own, so that a field's node says which version it is of. A
//! consumer who looks is promised a number, under which he is shown the fields; whoever opens has the version minted under
//! that number. So a number stands for the same bytes for ever, and looking mints nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::book::Ends;
use super::view::{NUMBERS_MAX, number_of, version_of};
use crate::model::{Consumer, FieldName, FieldNode, Secret, SecretBytes, SecretPath, UnixTime, Version};
use crate::store::{Declared, LeaseHandle, LeftSession, Login, StoreFault, Tenure};

/// How many numbers are written down as handed out at once.
const STRIDE: u32 = 16;
/// How many numbers may be promised to consumers who have opened nothing.
const PROMISED_MAX: usize = 4096;
/// For how long a version that ended is still known, so that whoever was about to open it is led to the next.
const ENDED_KNOWN_US: i64 = 60_000_000;
/// For how long after its end a version that was revoked by command is refused as such.
const REVOKED_KNOWN_US: i64 = 3_600_000_000;

/// Whose a version is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) path: SecretPath,
    pub(super) account: Arc<str>,
    pub(super) consumer: Arc<Consumer>,
}

impl Owner {
    /// `None` where nobody can be named.
    pub(super) fn of(login: &Login, path: &SecretPath) -> Option<Self> {
        let consumer = login.consumer().filter(|consumer| ***consumer != Consumer::Nobody)?;
        Some(Self { path: path.clone(), account: login.as_str().into(), consumer: Arc::clone(consumer) })
    }

    pub(super) fn login(&self) -> Login {
        Login::named(&self.account)
    }
}

/// Where a version is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It can be used.
    Live,
    /// It is to be ended at the server, next tried at this time of the boot clock.
    Ending { at_us: i64, reason: crate::model::Reason },
    /// Nothing is left of it at the server, since then.
    Ended { since_us: i64 },
}

/// One version that was minted.
pub(super) struct Minted {
    pub(super) number: u32,
    /// Ordered by name.
    pub(super) fields: Box<[(FieldName, SecretBytes)]>,
    pub(super) handle: LeaseHandle,
    /// Since when its consumer is shown it.
    pub(super) shown: UnixTime,
    /// When it ends; `None`: never.
    pub(super) ends: Option<Ends>,
    /// How long it was given when it was minted.
    pub(super) length: Option<Duration>,
    pub(super) is_renewable: bool,
    /// When it is renewed, or where it cannot be, replaced, by the boot clock.
    pub(super) care_us: Option<i64>,
    /// Whether it can only be replaced.
    pub(super) must_be_replaced: bool,
    /// When another took its place.
    pub(super) lost: Option<UnixTime>,
    pub(super) phase: Phase,
    pub(super) is_revoked: bool,
    /// Whether somebody asks the server about it.
    pub(super) is_busy: bool,
    /// How often in a row what was due failed.
    pub(super) tries: u32,
    pub(super) tenure: Option<Arc<dyn Tenure>>,
    /// What ends the session that it hangs on, where that is ours to end.
    pub(super) session: Option<Arc<LeftSession>>,
    pub(super) session_ends: Option<Ends>,
    pub(super) request_id: Option<Arc<str>>,
}

impl Minted {
    pub(super) fn is_over(&self, now_us: i64) -> bool {
        self.ends.as_ref().is_some_and(|ends| ends.boot_us <= now_us)
    }

    fn is_usable(&self) -> bool {
        self.phase == Phase::Live && !self.is_revoked
    }

    fn is_current(&self) -> bool {
        self.is_usable() && self.lost.is_none()
    }

    pub(super) fn field(&self, name: &FieldName) -> Option<&SecretBytes> {
        let at = self.fields.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        self.fields.get(at).map(|(_, value)| value)
    }
}

/// The outcome of a minting, shared by all who wait for it.
pub(super) type Flight = watch::Receiver<Option<Result<(), StoreFault>>>;

/// What one consumer has of one path.
#[derive(Default)]
pub(super) struct Holding {
    /// A number that was promised, and since when.
    pub(super) promised: Option<(u32, UnixTime)>,
    /// In the order they were minted.
    pub(super) versions: Vec<Minted>,
    pub(super) flight: Option<Flight>,
    pub(super) view: Option<Arc<Secret>>,
}

impl Holding {
    pub(super) fn current(&self) -> Option<&Minted> {
        self.versions.iter().rev().find(|minted| minted.is_current())
    }

    pub(super) fn previous(&self) -> Option<&Minted> {
        self.versions.iter().rev().find(|minted| minted.is_usable() && minted.lost.is_some())
    }

    pub(super) fn minted(&self, number: u32) -> Option<&Minted> {
        self.versions.iter().find(|minted| minted.number == number)
    }

    pub(super) fn minted_mut(&mut self, number: u32) -> Option<&mut Minted> {
        self.view = None;
        self.versions.iter_mut().find(|minted| minted.number == number)
    }

    /// Ends what ended by itself; returns which.
    fn settle(&mut self, now_us: i64, wall: UnixTime) -> Vec<u32> {
        let mut ended = Vec::new();
        for minted in &mut self.versions {
            if !matches!(minted.phase, Phase::Ended { .. }) && minted.is_over(now_us) {
                minted.phase = Phase::Ended { since_us: now_us };
                minted.lost.get_or_insert(wall);
                ended.push(minted.number);
            }
        }
        let before = self.versions.len();
        self.versions.retain(|minted| match minted.phase {
            Phase::Ended { since_us } => {
                let known_us = if minted.is_revoked { REVOKED_KNOWN_US } else { ENDED_KNOWN_US };
                minted.is_busy || now_us - since_us < known_us
            }
            _ => true,
        });
        if !ended.is_empty() || self.versions.len() != before {
            self.view = None;
        }
        ended
    }
}

/// All of it.
pub(super) struct Table {
    pub(super) declared: Arc<BTreeMap<SecretPath, Arc<Declared>>>,
    pub(super) holdings: HashMap<Arc<Owner>, Holding>,
    owners: BTreeMap<u32, Arc<Owner>>,
    /// The next number that was never promised.
    next: u32,
    /// Below this, numbers are written down as handed out.
    noted_below: u32,
    /// Numbers that were promised, and never minted.
    spare: BTreeSet<u32>,
    promised: VecDeque<(u32, Arc<Owner>)>,
    pub(super) wholes: HashMap<SecretPath, Arc<Secret>>,
    /// Versions that ended since this was last asked.
    ended: Vec<u32>,
}

impl Table {
    pub(super) fn new(declared: Arc<BTreeMap<SecretPath, Arc<Declared>>>, below: u32) -> Self {
        Self {
            declared,
            holdings: HashMap::new(),
            owners: BTreeMap::new(),
            next: below.max(1),
            noted_below: below.max(1),
            spare: BTreeSet::new(),
            promised: VecDeque::new(),
            wholes: HashMap::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn declared(&self, path: &SecretPath) -> Option<&Arc<Declared>> {
        self.declared.get(path)
    }

    pub(super) fn all_declared(&self) -> &Arc<BTreeMap<SecretPath, Arc<Declared>>> {
        &self.declared
    }

    /// Notes that something about `owner` changed.
    pub(super) fn touch(&mut self, owner: &Owner) {
        self.wholes.remove(&owner.path);
        if let Some(holding) = self.holdings.get_mut(owner) {
            holding.view = None;
        }
    }

    pub(super) fn owner_of(&self, number: u32) -> Option<&Arc<Owner>> {
        self.owners.get(&number)
    }

    pub(super) fn minted_mut(&mut self, number: u32) -> Option<&mut Minted> {
        let owner = self.owners.get(&number)?;
        self.wholes.remove(&owner.path);
        self.holdings.get_mut(owner)?.minted_mut(number)
    }

    /// What `node` stands for.
    pub(super) fn node(&self, node: FieldNode) -> Option<(SecretPath, Version, FieldName)> {
        let (number, at) = number_of(node)?;
        let owner = self.owners.get(&number)?;
        let fields = self.declared.get(&owner.path)?.engine.fields();
        let name = fields.into_iter().nth(at)?;
        Some((owner.path.clone(), version_of(number), name))
    }

    /// What is ended by itself by now is taken for ended.
    pub(super) fn settle(&mut self, owner: &Owner, now_us: i64, wall: UnixTime) {
        let Some(holding) = self.holdings.get_mut(owner) else { return };
        let known: Vec<u32> = holding.versions.iter().map(|minted| minted.number).collect();
        let ended = holding.settle(now_us, wall);
        let is_same = known.len() == holding.versions.len() && ended.is_empty();
        if !is_same {
            self.wholes.remove(&owner.path);
            let left: BTreeSet<u32> = holding.versions.iter().map(|minted| minted.number).collect();
            known
                .iter()
                .filter(|number| !left.contains(number))
                .for_each(|number| drop(self.owners.remove(number)));
        }
        self.ended.extend(ended);
    }

    /// Whether anything lives, or is to be ended, that hangs on the session of this accessor.
    pub(super) fn hangs_on(&self, accessor: &str) -> bool {
        self.holdings.values().flat_map(|holding| &holding.versions).any(|minted| {
            let is_over = matches!(minted.phase, Phase::Ended { .. });
            !is_over && minted.session.as_ref().is_some_and(|session| session.accessor == accessor)
        })
    }

    /// Whether there is anything to look after.
    pub(super) fn has_minted(&self) -> bool {
        self.holdings.values().any(|holding| !holding.versions.is_empty())
    }

    /// Versions that ended since this was last asked.
    pub(super) fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// A number for the next version of `owner`. The second: numbers below that are to be written down as handed out.
    pub(super) fn promise(
        &mut self,
        owner: &Arc<Owner>,
        wall: UnixTime,
    ) -> Result<(u32, Option<u32>), StoreFault> {
        let holding = self.holdings.entry(Arc::clone(owner)).or_default();
        if let Some((number, _)) = holding.promised {
            return Ok((number, None));
        }
        let newest = holding.versions.iter().map(|minted| minted.number).max().unwrap_or(0);
        let (number, to_note) = self.take_number(newest)?;
        let holding = self.holdings.entry(Arc::clone(owner)).or_default();
        holding.promised = Some((number, wall));
        holding.view = None;
        self.owners.insert(number, Arc::clone(owner));
        self.promised.push_back((number, Arc::clone(owner)));
        self.wholes.remove(&owner.path);
        self.take_back_promises();
        Ok((number, to_note))
    }

    /// A number for a version that takes the place of one that is current: nobody is shown it before it is minted.
    pub(super) fn promise_ahead(&mut self, owner: &Owner) -> Result<(u32, Option<u32>), StoreFault> {
        let versions = self.holdings.get(owner).map_or(&[][..], |holding| &holding.versions);
        let newest = versions.iter().map(|minted| minted.number).max().unwrap_or(0);
        self.take_number(newest)
    }

    /// A number above `newest` that stood for nothing yet.
    fn take_number(&mut self, newest: u32) -> Result<(u32, Option<u32>), StoreFault> {
        let used_again = self.spare.range(newest + 1..).next().copied();
        let number = match used_again {
            Some(number) => {
                self.spare.remove(&number);
                number
            }
            None if self.next < NUMBERS_MAX => {
                self.next += 1;
                self.next - 1
            }
            None => {
                return Err(StoreFault::TooLarge {
                    what: "the number of versions that were minted",
                    limit: "16777215",
                    remedy: "give the store another name",
                });
            }
        };
        let mut to_note = None;
        if number >= self.noted_below {
            self.noted_below = number + STRIDE;
            to_note = Some(self.noted_below);
        }
        Ok((number, to_note))
    }

    /// Gives back a number that nobody was shown.
    pub(super) fn give_back(&mut self, number: u32) {
        if !self.owners.contains_key(&number) {
            self.spare.insert(number);
        }
    }

    /// Below which number all may have been handed out, to be written down.
    pub(super) fn note_all_below(&mut self) -> u32 {
        self.noted_below = self.noted_below.max(self.next);
        self.noted_below
    }

    fn take_back_promises(&mut self) {
        while self.promised.len() > PROMISED_MAX {
            let Some((number, owner)) = self.promised.pop_front() else { return };
            let Some(holding) = self.holdings.get(&owner) else { continue };
            if holding.promised.is_none_or(|(promised, _)| promised != number) {
                continue;
            }
            if holding.flight.is_some() {
                // Being minted: it is none for long.
                self.promised.push_back((number, owner));
                return;
            }
            self.take_back(&owner);
        }
    }

    /// Takes back what was promised to `owner`.
    fn take_back(&mut self, owner: &Arc<Owner>) {
        let Some(holding) = self.holdings.get_mut(owner) else { return };
        holding.view = None;
        if let Some((number, _)) = holding.promised.take() {
            self.spare.insert(number);
            self.owners.remove(&number);
        }
        if holding.versions.is_empty() {
            self.holdings.remove(owner);
        }
        self.wholes.remove(&owner.path);
    }

    /// Puts a version in its place: it is current from now on.
    pub(super) fn put(&mut self, owner: &Arc<Owner>, minted: Minted, wall: UnixTime) -> Option<u32> {
        let holding = self.holdings.entry(Arc::clone(owner)).or_default();
        let mut replaced = None;
        for other in holding.versions.iter_mut().filter(|other| other.is_current()) {
            other.lost = Some(wall);
            replaced = Some(other.number);
        }
        if holding.promised.is_some_and(|(number, _)| number == minted.number) {
            holding.promised = None;
            self.promised.retain(|(number, _)| *number != minted.number);
        }
        self.owners.insert(minted.number, Arc::clone(owner));
        holding.versions.push(minted);
        holding.view = None;
        self.wholes.remove(&owner.path);
        replaced
    }

    /// Forgets a consumer of whom nothing is left.
    pub(super) fn forget_if_done(&mut self, owner: &Arc<Owner>) {
        let Some(holding) = self.holdings.get(owner) else { return };
        let is_done = |minted: &Minted| matches!(minted.phase, Phase::Ended { .. }) && !minted.is_busy;
        if holding.flight.is_some() || !holding.versions.iter().all(is_done) {
            return;
        }
        for minted in &holding.versions {
            self.owners.remove(&minted.number);
        }
        if let Some(holding) = self.holdings.get_mut(owner) {
            holding.versions.clear();
        }
        self.take_back(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Engine;

    fn path() -> SecretPath {
        SecretPath::parse("db/orders").unwrap()
    }

    fn table() -> Table {
        let engine = Engine::Database { mount: "database".into(), role: "orders".into() };
        let declared = Declared { path: path(), engine, sharing: crate::model::Sharing::Process };
        Table::new(Arc::new([(path(), Arc::new(declared))].into()), 0)
    }

    fn owner(pid: u32) -> Arc<Owner> {
        let login = Login::machine().for_consumer(Consumer::Process { pid, origin: u64::from(pid) });
        Arc::new(Owner::of(&login, &path()).unwrap())
    }

    fn minted(number: u32) -> Minted {
        let value = || SecretBytes::taken_from(&mut [7; 3]);
        let name = |name: &str| FieldName::parse(name).unwrap();
        Minted {
            number,
            fields: [(name("password"), value()), (name("username"), value())].into(),
            handle: LeaseHandle::Lease(format!("lease-{number}")),
            shown: UnixTime::default(),
            ends: None,
            length: None,
            is_renewable: true,
            care_us: None,
            must_be_replaced: false,
            lost: None,
            phase: Phase::Live,
            is_revoked: false,
            is_busy: false,
            tries: 0,
            tenure: None,
            session: None,
            session_ends: None,
            request_id: None,
        }
    }

    #[test]
    fn a_number_stands_for_one_version_for_ever_however_many_only_look() {
        let mut table = table();
        let wall = UnixTime::default();
        let (first, _) = table.promise(&owner(1), wall).unwrap();
        assert_eq!(table.promise(&owner(1), wall).unwrap(), (first, None), "a promise holds");
        table.put(&owner(1), minted(first), wall);
        let mut looked = BTreeSet::new();
        for pid in 2..20_000 {
            let (number, _) = table.promise(&owner(pid), wall).unwrap();
            assert_ne!(number, first, "what was minted was promised again");
            looked.insert(number);
            let view = table.view(&owner(pid)).unwrap();
            assert_eq!((view.current, view.versions.len()), (Some(version_of(number)), 1));
        }
        assert!(looked.len() <= PROMISED_MAX + 2, "{} numbers for who only looks", looked.len());
        assert!(table.holdings.len() <= PROMISED_MAX + 1);
        let whole = table.whole(&path()).unwrap();
        assert_eq!(whole.versions.len(), table.holdings.len());
        assert_eq!(table.view(&owner(1)).unwrap().current, Some(version_of(first)));
    }

    #[test]
    fn what_is_taken_back_and_promised_again_is_no_version_of_who_had_it_before() {
        let mut table = table();
        let wall = UnixTime::default();
        let (number, _) = table.promise(&owner(1), wall).unwrap();
        table.take_back(&owner(1));
        assert_eq!(table.promise(&owner(2), wall).unwrap().0, number);
        assert!(table.view(&owner(1)).is_none());
        let node = table.view(&owner(2)).unwrap().version(version_of(number)).unwrap().fields[1].node;
        let (at, version, name) = table.node(node).unwrap();
        assert_eq!((at, version, name.as_str()), (path(), version_of(number), "username"));
    }

    #[test]
    fn the_one_before_stays_until_it_ends_and_then_leads_to_the_next() {
        let mut table = table();
        let wall = UnixTime::default();
        let (first, _) = table.promise(&owner(1), wall).unwrap();
        table.put(&owner(1), Minted { ends: Some(ends(10)), ..minted(first) }, wall);
        let (second, _) = table.promise_ahead(&owner(1)).unwrap();
        assert_eq!(table.put(&owner(1), minted(second), wall), Some(first));
        let view = table.view(&owner(1)).unwrap();
        assert_eq!((view.current, view.previous), (Some(version_of(second)), Some(version_of(first))));
        table.settle(&owner(1), 10, wall);
        let view = table.view(&owner(1)).unwrap();
        assert_eq!((view.current, view.previous, view.versions.len()), (Some(version_of(second)), None, 2));
        assert_eq!(table.take_ended(), [first]);
        table.settle(&owner(1), 10 + ENDED_KNOWN_US, wall);
        assert_eq!(table.view(&owner(1)).unwrap().versions.len(), 1);
        assert!(table.owner_of(first).is_none() && table.owner_of(second).is_some());
    }

    fn ends(boot_us: i64) -> Ends {
        Ends { boot_id: "boot".into(), boot_us, wall: UnixTime::default() }
    }
}
