//! Values in: from standard input, files, prompts or JSON; never from an argument, which `ps` shows.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::control::CommandFault;
use crate::model::{FieldName, SecretBytes, VALUE_BYTES_MAX};
use crate::sys::terminal::Silent;

use super::output::say;

/// Most that `--fields-json` reads, in bytes.
const JSON_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where one field's value comes from.
enum Source {
    /// Asked for on a terminal, else standard input.
    Bare,
    Input,
    File(PathBuf),
}

/// Fields and their values, in the order they were named.
pub(super) type Fields = Vec<(FieldName, SecretBytes)>;

/// Reads the fields that the arguments name.
pub(super) fn fields(arguments: &[String]) -> Result<Fields, CommandFault> {
    if arguments.is_empty() {
        return Err(CommandFault::usage(
            "no field is named: write `credfs put PATH FIELD`, and give the value on standard input or at the prompt",
        ));
    }
    let mut seen = HashSet::new();
    let mut named = Vec::new();
    for (at, argument) in arguments.iter().enumerate() {
        let (name, source) = parse(argument, at + 1)?;
        if !seen.insert(name.clone()) {
            return Err(CommandFault::usage(format!(
                "field {} is named twice: name it once",
                name.as_str().escape_debug()
            )));
        }
        named.push((name, source));
    }
    let is_terminal = io::stdin().is_terminal();
    let from_input = named
        .iter()
        .filter(|(_, source)| match source {
            Source::Bare => !is_terminal,
            Source::Input => true,
            Source::File(_) => false,
        })
        .count();
    if from_input > 1 {
        return Err(CommandFault::usage(
            "standard input can give one value only, and several fields want it: give the others as FIELD=@FILE, or all \
             as --fields-json",
        ));
    }
    named
        .into_iter()
        .map(|(name, source)| read(&name, source, is_terminal).map(|value| (name, value)))
        .collect()
}

/// The argument may hold a value where someone has not read the help: it is never repeated.
fn parse(argument: &str, number: usize) -> Result<(FieldName, Source), CommandFault> {
    let (name, source) = match argument.split_once('=') {
        None => (argument, Source::Bare),
        Some((name, "-")) => (name, Source::Input),
        Some((name, source)) => match source.strip_prefix('@') {
            Some(file) if !file.is_empty() => (name, Source::File(file.into())),
            _ => {
                return Err(CommandFault::usage(format!(
                    "field number {number} is given as FIELD=value, but a value on the command line is shown to every \
                     user by `ps` and kept in shell history: give it on standard input (FIELD=-), from a file \
                     (FIELD=@FILE) or at the prompt (FIELD)"
                )));
            }
        },
    };
    let name = FieldName::parse(name)
        .map_err(|fault| CommandFault::usage(format!("field number {number}: {fault}")))?;
    Ok((name, source))
}

fn read(name: &FieldName, source: Source, is_terminal: bool) -> Result<SecretBytes, CommandFault> {
    let field = name.as_str().escape_debug().to_string();
    let too_large = |error: io::Error, from: &str| {
        if error.kind() == io::ErrorKind::FileTooLarge {
            CommandFault::failed(format!(
                "the value of {field} is larger than 1 MiB ({VALUE_BYTES_MAX} bytes), the most that a value may have: \
                 split it, or store what encrypts it"
            ))
        } else {
            CommandFault::failed(format!("the value of {field} cannot be read from {from}: {error}"))
        }
    };
    let value = match source {
        Source::Bare if is_terminal => return prompt(&field),
        Source::Bare | Source::Input => {
            if is_terminal {
                say(&format!("Type the value of {field}; end it with Ctrl-D on a line of its own."));
            }
            SecretBytes::read_from(&mut io::stdin().lock(), VALUE_BYTES_MAX)
                .map_err(|error| too_large(error, "standard input"))?
        }
        Source::File(path) => {
            let mut file =
                File::open(&path).map_err(|error| too_large(error, &path.display().to_string()))?;
            SecretBytes::read_from(&mut file, VALUE_BYTES_MAX)
                .map_err(|error| too_large(error, &path.display().to_string()))?
        }
    };
    warn_of_newline(&field, &value);
    Ok(value)
}

/// One newline, at the very end: what `echo` adds and few mean.
fn warn_of_newline(field: &str, value: &SecretBytes) {
    let bytes = value.expose();
    if bytes.strip_suffix(b"\n").is_some_and(|rest| !rest.contains(&b'\n')) {
        say(&format!(
            "warning: the value of {field} ends with a newline, which is stored as part of it; `printf %s` writes none"
        ));
    }
}

fn prompt(field: &str) -> Result<SecretBytes, CommandFault> {
    let stdin = io::stdin();
    let failed = |error: io::Error| CommandFault::failed(format!("the terminal cannot be read: {error}"));
    let ask = |question: &str| -> Result<SecretBytes, CommandFault> {
        say_without_newline(question);
        let _silent = Silent::new(stdin.as_fd()).map_err(failed)?;
        let mut line = Zeroizing::new(Vec::with_capacity(8192));
        stdin.lock().take(VALUE_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(SecretBytes::taken_from(&mut line))
    };
    let value = ask(&format!("Value of {field} (not shown): "))?;
    let again = ask("The same again: ")?;
    if value.expose() != again.expose() {
        return Err(CommandFault::failed("the two are not the same, so nothing was stored: try again"));
    }
    Ok(value)
}

fn say_without_newline(text: &str) {
    use std::io::Write as _;
    let mut stderr = io::stderr().lock();
    // Where standard error is gone there is nobody to ask.
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

/// Asks for a yes on a terminal. Without one, or with `yes`, it is taken as given.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), CommandFault> {
    if yes || !io::stdin().is_terminal() {
        return Ok(());
    }
    say_without_newline(&format!("{question} Type yes to go on: "));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CommandFault::failed(format!("the terminal cannot be read: {error}")))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(CommandFault::failed("nothing was done")) }
}

/// Reads `{"field": "text", "other": {"base64": "…"}}` from standard input.
pub(super) fn fields_json() -> Result<Fields, CommandFault> {
    let text = SecretBytes::read_from(&mut io::stdin().lock(), JSON_BYTES_MAX).map_err(|error| {
        CommandFault::failed(format!("the fields cannot be read from standard input: {error}"))
    })?;
    let mut reader = serde_json::Deserializer::from_slice(text.expose());
    let fields = reader.deserialize_map(FieldsVisitor).and_then(|fields| reader.end().map(|()| fields));
    // The library's own words may repeat a part of the input: only the place is told.
    let fields = fields.map_err(|error| {
        CommandFault::usage(format!(
            "standard input is not one JSON object of texts and {{\"base64\":\"…\"}} (line {}, column {}): each field \
             once, no other types",
            error.line(),
            error.column()
        ))
    })?;
    if fields.is_empty() {
        return Err(CommandFault::usage("the JSON object names no field: name at least one"));
    }
    let mut checked = Vec::with_capacity(fields.len());
    for (at, (name, value)) in fields.into_iter().enumerate() {
        let name = FieldName::parse(&name)
            .map_err(|fault| CommandFault::usage(format!("field number {}: {fault}", at + 1)))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(CommandFault::failed(format!(
                "the value of {} is larger than 1 MiB ({VALUE_BYTES_MAX} bytes), the most that a value may have: \
                 split it, or store what encrypts it",
                name.as_str().escape_debug()
            )));
        }
        checked.push((name, value));
    }
    Ok(checked)
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Vec<(String, SecretBytes)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom("a field twice"));
            }
            let Value(value) = map.next_value()?;
            fields.push((name, value));
        }
        Ok(fields)
    }
}

/// One value: a text, or `{"base64": "…"}`.
struct Value(SecretBytes);

impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = SecretBytes;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a text or {\"base64\":\"…\"}")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretBytes, E> {
        Ok(SecretBytes::taken_from(&mut Zeroizing::new(text.as_bytes().to_vec())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretBytes, A::Error> {
        let Some("base64") = map.next_key::<String>()?.as_deref() else {
            return Err(A::Error::custom("not base64"));
        };
        let Value(encoded) = map.next_value()?;
        let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
        let length = STANDARD
            .decode_slice(encoded.expose(), &mut bytes)
            .map_err(|_| A::Error::custom("not base64"))?;
        if map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom("more than base64"));
        }
        Ok(SecretBytes::taken_from(&mut bytes[..length]))
    }
}
