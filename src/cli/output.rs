//! Printing: text for people, JSON for scripts, values byte for byte. A reader that went away is no failure of ours.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::control::CommandFault;
use crate::model::{FieldName, SecretBytes};

/// Standard output without a buffer of its own, so that no value stays behind in one.
fn raw() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

fn written(result: io::Result<()>) -> Result<(), CommandFault> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result
            .map_err(|error| CommandFault::failed(format!("standard output cannot be written: {error}"))),
    }
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> Result<(), CommandFault> {
    written(io::stdout().lock().write_all(text.as_bytes()))
}

/// Prints one line.
pub(super) fn line(line: &str) -> Result<(), CommandFault> {
    text(&format!("{line}\n"))
}

/// Prints one JSON document.
pub(super) fn json(value: &Value) -> Result<(), CommandFault> {
    line(&value.to_string())
}

/// Says something beside the output: a warning, a question, a next step.
pub(super) fn say(message: &str) {
    // Where standard error is gone there is nobody to tell.
    drop(io::stderr().lock().write_all(format!("{message}\n").as_bytes()));
}

/// Prints a value, byte for byte.
pub(super) fn value(value: &SecretBytes) -> Result<(), CommandFault> {
    written(raw().and_then(|mut out| out.write_all(value.expose())))
}

/// Prints `{"secret","version","fields":{…}}`, values included.
pub(super) fn values(
    secret: &str,
    version: u32,
    fields: &[FieldName],
    values: &[SecretBytes],
) -> Result<(), CommandFault> {
    let room = values.iter().map(|value| value.len() * 6 + 64).sum::<usize>() + fields.len() * 2048 + 2048;
    // Room for all of it at once: growing would leave copies behind.
    let mut out = Zeroizing::new(Vec::with_capacity(room));
    let write = |out: &mut Vec<u8>| -> io::Result<()> {
        write!(out, "{{\"secret\":{},\"version\":{version},\"fields\":{{", Value::from(secret))?;
        for (at, (name, value)) in fields.iter().zip(values).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}:", Value::from(name.as_str()))?;
            match std::str::from_utf8(value.expose()) {
                Ok(text) => serde_json::to_writer(&mut *out, text)?,
                Err(_) => {
                    let encoded = Zeroizing::new(STANDARD.encode(value.expose()));
                    write!(out, "{{\"base64\":\"{}\"}}", encoded.as_str())?;
                }
            }
        }
        out.write_all(b"}}\n")
    };
    written(write(&mut out))?;
    written(raw().and_then(|mut raw| raw.write_all(&out)))
}

/// Rows in columns as wide as their longest cell.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    };
    let mut out = render(&mut heads.iter().copied());
    for row in rows {
        out.push_str(&render(&mut row.iter().map(String::as_str)));
    }
    out
}
