//! Frames of the control socket: a length (u32, little-endian) and that many bytes.
//!
//! A request is a header and as many value frames as the header's command has fields. An answer is a header, and as
//! many value frames as it names fields, or a file as chunks that end with an empty one. Both headers are JSON.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{SecretBytes, VALUE_BYTES_MAX};

use super::{Answer, Command, CommandFault};

/// The version of this protocol: both ends are usually one binary, but not during an upgrade.
pub(super) const PROTOCOL: u32 = 1;
/// Longest request header, in bytes.
pub(super) const REQUEST_HEADER_BYTES_MAX: usize = 256 * 1024;
/// Longest answer header, in bytes: the names of some 100,000 secrets.
pub(super) const ANSWER_HEADER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most values in one message.
pub(super) const VALUES_MAX: usize = 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// The header of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestHeader {
    pub(super) protocol: u32,
    pub(super) command: Command,
}

/// What the answering side says first: until then it has taken nothing, and another way may be tried.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Greeting {
    Ready { protocol: u32 },
    Fault(CommandFault),
}

/// The header of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AnswerHeader {
    Done(Answer),
    Fault(CommandFault),
}

/// A connection whose every read and write ends at one moment at the latest, however slowly the other side goes.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, within: Duration) -> Self {
        Self { stream, until: Instant::now() + within }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_length(stream: &mut impl Read, bytes_max: usize) -> io::Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| malformed("a frame is too long"))?;
    if length > bytes_max { Err(malformed("a frame is longer than its limit")) } else { Ok(length) }
}

fn write_length(stream: &mut impl Write, length: usize) -> io::Result<()> {
    let length = u32::try_from(length).map_err(|_| malformed("a frame is too long"))?;
    stream.write_all(&length.to_le_bytes())
}

/// Reads a header; `None` where the other side closed without a byte.
pub(super) fn read_header<T: DeserializeOwned>(stream: &mut impl Read, bytes_max: usize) -> io::Result<T> {
    let length = read_length(stream, bytes_max)?;
    // Taken as it comes: a length alone must not make us take memory.
    let mut text = Vec::new();
    stream.by_ref().take(length as u64).read_to_end(&mut text)?;
    if text.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&text).map_err(|_| malformed("a header is not understood"))
}

/// Writes a header.
pub(super) fn write_header<T: Serialize>(stream: &mut impl Write, header: &T) -> io::Result<()> {
    let text = serde_json::to_vec(header).map_err(io::Error::other)?;
    write_length(stream, text.len())?;
    stream.write_all(&text)
}

/// Reads `count` values straight into locked memory, of which all together take at most `bytes_max`.
pub(super) fn read_values(
    stream: &mut impl Read,
    count: usize,
    bytes_max: usize,
) -> io::Result<Vec<SecretBytes>> {
    if count > VALUES_MAX {
        return Err(malformed("too many values"));
    }
    let mut left = bytes_max;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let length = read_length(stream, VALUE_BYTES_MAX.min(left))?;
        left -= length;
        values.push(SecretBytes::filled_by(length, |bytes| stream.read_exact(bytes))?);
    }
    Ok(values)
}

/// Writes values.
pub(super) fn write_values(stream: &mut impl Write, values: &[SecretBytes]) -> io::Result<()> {
    for value in values {
        write_length(stream, value.len())?;
        stream.write_all(value.expose())?;
    }
    Ok(())
}

/// Writes a file as chunks, and the empty chunk that says it was whole.
pub(super) fn write_file(stream: &mut impl Write, file: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read(&mut chunk)?;
        write_length(stream, length)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&chunk[..length])?;
    }
}

/// Reads the chunks of a file up to the empty one.
pub(super) fn read_file(stream: &mut impl Read, into: &mut impl Write) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        let length = read_length(stream, CHUNK_BYTES)?;
        if length == 0 {
            return Ok(total);
        }
        stream.read_exact(&mut chunk[..length])?;
        into.write_all(&chunk[..length])?;
        total += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_byte_for_byte_and_one_too_long_is_refused_before_it_is_read() {
        let values: Vec<_> = [&b""[..], &b"\0\xff\n"[..]]
            .iter()
            .map(|bytes| SecretBytes::taken_from(&mut bytes.to_vec()))
            .collect();
        let mut wire = Vec::new();
        write_values(&mut wire, &values).unwrap();
        let back = read_values(&mut wire.as_slice(), 2, 1024).unwrap();
        assert!(back.iter().zip(&values).all(|(one, other)| one.expose() == other.expose()));
        assert!(read_values(&mut wire.as_slice(), 2, 2).is_err(), "more than the sum that is allowed");
        let long = (u32::try_from(VALUE_BYTES_MAX).unwrap() + 1).to_le_bytes();
        let refused = read_values(&mut long.as_slice(), 1, usize::MAX).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_header_that_is_cut_off_too_long_or_not_understood_is_an_error() {
        let mut whole = Vec::new();
        write_header(&mut whole, &RequestHeader { protocol: PROTOCOL, command: Command::Status }).unwrap();
        for end in 0..whole.len() {
            assert!(read_header::<RequestHeader>(&mut &whole[..end], 1024).is_err(), "cut at {end}");
        }
        assert!(read_header::<RequestHeader>(&mut whole.as_slice(), 4).is_err());
        assert!(read_header::<RequestHeader>(&mut &b"\x02\0\0\0{}"[..], 1024).is_err());
        assert_eq!(
            read_header::<RequestHeader>(&mut whole.as_slice(), 1024).unwrap().command,
            Command::Status
        );
    }

    #[test]
    fn a_file_that_ends_early_is_not_taken_for_whole() {
        let mut out = Vec::new();
        assert!(read_file(&mut &b"\x02\0\0\0ab"[..], &mut out).is_err());
        assert_eq!(read_file(&mut &b"\x02\0\0\0ab\0\0\0\0"[..], &mut Vec::new()).unwrap(), 2);
    }
}
