//! One manual page for each command, and what each shell needs to complete the command line.

use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

/// Writes everything below `directory` and returns the files, sorted.
pub(crate) fn write(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let manual = directory.join("man1");
    let completion = directory.join("completion");
    for place in [&manual, &completion] {
        if place.exists() {
            // A page of a command that is gone must not be shipped.
            std::fs::remove_dir_all(place)?;
        }
        std::fs::create_dir_all(place)?;
    }
    clap_mangen::generate_to(credfs::cli::command(), &manual)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut credfs::cli::command(), "credfs", &completion)?;
    }
    let mut files = Vec::new();
    for place in [manual, completion] {
        for entry in std::fs::read_dir(place)? {
            files.push(entry?.path());
        }
    }
    files.sort();
    Ok(files)
}
