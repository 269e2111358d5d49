//! The leases on disk: sealed, and written before what was minted is handed out, so that a process that dies leaves its
//! successor what to renew or to end.
//!
//! ```text
//! record = u32 length of the note, little endian | note, as JSON | the values that it names, one after the other
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::table::{Minted, Owner, Phase};
use crate::model::{Consumer, FieldName, SecretBytes, SecretPath, UnixTime};
use crate::store::sealed::{KeySource, SealedLog, files};
use crate::store::{LeaseHandle, LeftSession, Login, StoreFault};

const PURPOSE: &[u8] = b"credfs leases 1";
/// From which length on the file is looked at whether most of it is about leases that are gone, in bytes.
const SHORTEN_FROM_BYTES: u64 = 256 * 1024;

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// A version was minted.
    Minted(Box<MintedNote>),
    /// It lives longer.
    Renewed { number: u32, ends: Ends },
    /// Another version took its place.
    Lost { number: u32, when: UnixTime },
    /// It is to be ended at the server.
    Ending { number: u32 },
    /// It is refused to everyone, by command.
    Revoked { number: u32 },
    /// Nothing is left of it at the server.
    Gone { number: u32 },
    /// Numbers below this one may have been handed out.
    Below { number: u32 },
}

/// When a lease ends, by both clocks: the one of this boot, and the wall clock for after the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ends {
    pub(super) boot_id: String,
    pub(super) boot_us: i64,
    pub(super) wall: UnixTime,
}

/// All that must be known of a version to go on with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MintedNote {
    pub(super) number: u32,
    pub(super) path: SecretPath,
    pub(super) account: String,
    pub(super) consumer: Consumer,
    pub(super) boot_id: String,
    pub(super) handle: LeaseHandle,
    pub(super) shown: UnixTime,
    pub(super) ends: Option<Ends>,
    pub(super) length_us: Option<u64>,
    pub(super) is_renewable: bool,
    /// When the session that it hangs on ends, as far as was known when this was written.
    pub(super) session_ends: Option<Ends>,
    pub(super) request_id: Option<String>,
    fields: Vec<(FieldName, usize)>,
    /// The session that it hangs on, where it is ours to end: its token comes after the fields.
    #[serde(default)]
    session: Option<SessionNote>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionNote {
    accessor: String,
    token_bytes: usize,
}

/// One version as the file has it.
pub(super) struct Kept {
    pub(super) note: MintedNote,
    pub(super) fields: Box<[(FieldName, SecretBytes)]>,
    pub(super) session: Option<LeftSession>,
    pub(super) lost: Option<UnixTime>,
    pub(super) is_ending: bool,
    pub(super) is_revoked: bool,
}

/// Everything that the file has.
#[derive(Default)]
pub(super) struct Found {
    pub(super) kept: BTreeMap<u32, Kept>,
    pub(super) below: u32,
    pub(super) is_damaged: bool,
}

/// The open file.
pub(super) struct Book {
    log: SealedLog,
}

impl Book {
    /// Opens the file at `path`; its key lies beside it, and is made where there is none.
    pub(super) fn open(path: &Path, wait: Duration) -> Result<(Self, Found), StoreFault> {
        let key = KeySource::File(files::beside(path, ".key")).read_or_make_for(path)?;
        let mut found = Found::default();
        let (log, of_file) = SealedLog::open(path, key, PURPOSE, wait, &mut |record| {
            // One of a later kind is passed over.
            let _ = found.read(record);
        })?;
        found.is_damaged = of_file.is_damaged;
        Ok((Self { log }, found))
    }

    /// Notes that a version was minted; stored for good when this returns.
    pub(super) fn add_minted(&mut self, note: &Note, values: &[SecretBytes]) -> Result<(), StoreFault> {
        self.log.add(&record(note, values)?, true)
    }

    /// Notes anything else. Lost with the power it does no harm: the next process asks the server.
    pub(super) fn add(&mut self, note: &Note) -> Result<(), StoreFault> {
        self.log.add(&record(note, &[])?, false)
    }

    /// Whether most of the file is about what is gone.
    pub(super) fn is_long(&self, live: usize) -> bool {
        self.log.bytes() > SHORTEN_FROM_BYTES.max(live as u64 * 16 * 1024)
    }

    /// Writes the file anew, with nothing but `records`.
    pub(super) fn replace(&mut self, records: Vec<Zeroizing<Vec<u8>>>) -> Result<(), StoreFault> {
        self.log.replace(&mut records.into_iter())
    }
}

/// Everything that says of a version what is to be known of it.
pub(super) fn records_of(
    owner: &Owner,
    boot_id: &str,
    minted: &Minted,
) -> Result<Vec<Zeroizing<Vec<u8>>>, StoreFault> {
    let number = minted.number;
    let mut records = vec![record(&note_of(owner, boot_id, minted), &values_of(minted))?];
    if let Some(when) = minted.lost {
        records.push(record(&Note::Lost { number, when }, &[])?);
    }
    if minted.is_revoked {
        records.push(record(&Note::Revoked { number }, &[])?);
    }
    if matches!(minted.phase, Phase::Ending { .. }) {
        records.push(record(&Note::Ending { number }, &[])?);
    }
    Ok(records)
}

pub(super) fn below(number: u32) -> Result<Zeroizing<Vec<u8>>, StoreFault> {
    record(&Note::Below { number }, &[])
}

/// The values that go with that, in the order in which the note names them.
pub(super) fn values_of(minted: &Minted) -> Vec<SecretBytes> {
    let token = minted.session.iter().map(|session| session.token.shared());
    minted.fields.iter().map(|(_, value)| value.shared()).chain(token).collect()
}

/// What is noted when a version was minted.
pub(super) fn note_of(owner: &Owner, boot_id: &str, minted: &Minted) -> Note {
    Note::Minted(Box::new(MintedNote {
        number: minted.number,
        path: owner.path.clone(),
        account: owner.account.to_string(),
        consumer: (*owner.consumer).clone(),
        boot_id: boot_id.to_owned(),
        handle: minted.handle.clone(),
        shown: minted.shown,
        ends: minted.ends.clone(),
        length_us: minted.length.map(|length| u64::try_from(length.as_micros()).unwrap_or(u64::MAX)),
        is_renewable: minted.is_renewable,
        session_ends: minted.session_ends.clone(),
        request_id: minted.request_id.as_deref().map(str::to_owned),
        fields: minted.fields.iter().map(|(name, value)| (name.clone(), value.len())).collect(),
        session: minted.session.as_ref().map(|session| SessionNote {
            accessor: session.accessor.clone(),
            token_bytes: session.token.len(),
        }),
    }))
}

fn record(note: &Note, values: &[SecretBytes]) -> Result<Zeroizing<Vec<u8>>, StoreFault> {
    let failed = |_| StoreFault::Io("a lease could not be written down".into());
    let text = serde_json::to_vec(note).map_err(|error| failed(error.to_string()))?;
    let length = u32::try_from(text.len()).map_err(|error| failed(error.to_string()))?;
    let length_of_all: usize = values.iter().map(SecretBytes::len).sum();
    // As long as it will be from the beginning: grown, it would leave copies behind.
    let mut record = Zeroizing::new(Vec::with_capacity(4 + text.len() + length_of_all));
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&text);
    values.iter().for_each(|value| record.extend_from_slice(value.expose()));
    Ok(record)
}

impl Found {
    /// Takes in one record. `None`: a later version of credfs wrote it, and it is passed over.
    fn read(&mut self, record: &[u8]) -> Option<()> {
        let length = u32::from_le_bytes(record.get(..4)?.try_into().ok()?) as usize;
        let rest = record.get(4 + length..)?;
        match serde_json::from_slice::<Note>(record.get(4..4 + length)?).ok()? {
            Note::Minted(note) => {
                let (fields, rest) = values(&note.fields, rest)?;
                let session = match &note.session {
                    Some(session) => Some(LeftSession {
                        login: Login::named(&note.account),
                        accessor: session.accessor.clone(),
                        token: value(rest.get(..session.token_bytes)?)?,
                    }),
                    None => None,
                };
                self.below = self.below.max(note.number.saturating_add(1));
                let kept =
                    Kept { note: *note, fields, session, lost: None, is_ending: false, is_revoked: false };
                self.kept.insert(kept.note.number, kept);
            }
            Note::Renewed { number, ends } => self.kept.get_mut(&number)?.note.ends = Some(ends),
            Note::Lost { number, when } => self.kept.get_mut(&number)?.lost = Some(when),
            Note::Ending { number } => self.kept.get_mut(&number)?.is_ending = true,
            Note::Revoked { number } => self.kept.get_mut(&number)?.is_revoked = true,
            Note::Gone { number } => drop(self.kept.remove(&number)),
            Note::Below { number } => self.below = self.below.max(number),
        }
        Some(())
    }
}

/// The fields of a version, and what comes after them.
type Values<'a> = (Box<[(FieldName, SecretBytes)]>, &'a [u8]);

fn values<'a>(fields: &[(FieldName, usize)], mut bytes: &'a [u8]) -> Option<Values<'a>> {
    let mut read = Vec::with_capacity(fields.len());
    for (name, length) in fields {
        read.push((name.clone(), value(bytes.get(..*length)?)?));
        bytes = bytes.get(*length..)?;
    }
    Some((read.into(), bytes))
}

fn value(bytes: &[u8]) -> Option<SecretBytes> {
    let filled: Result<_, ()> = SecretBytes::filled_by(bytes.len(), |into| {
        into.copy_from_slice(bytes);
        Ok(())
    });
    filled.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(session: Option<SessionNote>) -> Note {
        let fields = ["password", "username"].map(|name| (FieldName::parse(name).unwrap(), name.len()));
        Note::Minted(Box::new(MintedNote {
            number: 7,
            path: SecretPath::parse("db/orders").unwrap(),
            account: "identity:orders".into(),
            consumer: Consumer::Process { pid: 1, origin: 2 },
            boot_id: "boot".into(),
            handle: LeaseHandle::Lease("lease".into()),
            shown: UnixTime::default(),
            ends: None,
            length_us: None,
            is_renewable: true,
            session_ends: None,
            request_id: None,
            fields: fields.into(),
            session,
        }))
    }

    fn values(all: &[&str]) -> Vec<SecretBytes> {
        all.iter().map(|text| SecretBytes::taken_from(&mut text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_version_is_read_with_its_fields_and_the_session_it_hangs_on_and_a_cut_one_not_at_all() {
        let session = SessionNote { accessor: "accessor".into(), token_bytes: 5 };
        let whole = record(&note(Some(session)), &values(&["password", "username", "token"])).unwrap();
        let mut found = Found::default();
        found.read(&whole).unwrap();
        let kept = &found.kept[&7];
        assert_eq!(
            kept.fields.iter().map(|(_, value)| value.expose()).collect::<Vec<_>>(),
            [b"password", b"username"]
        );
        let session = kept.session.as_ref().unwrap();
        assert_eq!((session.accessor.as_str(), session.token.expose()), ("accessor", &b"token"[..]));
        assert_eq!(session.login, Login::of_identity("orders"));
        for cut in 0..whole.len() {
            assert!(Found::default().read(&whole[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn a_version_that_was_written_before_sessions_were_is_read() {
        let whole = record(&note(None), &values(&["password", "username"])).unwrap();
        let text = String::from_utf8(whole[4..whole.len() - 16].to_vec()).unwrap();
        let earlier = text.replace(",\"session\":null", "");
        assert_ne!(earlier, text);
        let mut record = u32::try_from(earlier.len()).unwrap().to_le_bytes().to_vec();
        record.extend_from_slice(earlier.as_bytes());
        record.extend_from_slice(b"passwordusername");
        let mut found = Found::default();
        found.read(&record).unwrap();
        assert!(found.kept[&7].session.is_none() && found.kept[&7].fields.len() == 2);
    }
}
