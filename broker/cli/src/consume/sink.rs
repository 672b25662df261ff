//! Where consumed messages go, and what makes them safe there.

use crate::exit::{Code, Failure};
use crate::message::write_message;
use crate::output::Output;
use posthouse_client::Delivery;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Standard output, or a file.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    topic: &'a str,
    json: bool,
    target: Target<'a>,
}

#[derive(Debug)]
enum Target<'a> {
    Stdout(&'a mut Output),
    File(Appending),
}

/// A file that grows by whole groups.
#[derive(Debug)]
struct Appending {
    file: File,
    path: PathBuf,
    /// Where the last group that is safe ends.
    len: u64,
    group: Vec<u8>,
}

impl<'a> Sink<'a> {
    /// A file that is not there is made, durably.
    pub(super) fn open(
        path: Option<&Path>,
        topic: &'a str,
        output: &'a mut Output,
    ) -> Result<Self, Failure> {
        let json = output.is_json();
        let target = match path {
            None => Target::Stdout(output),
            Some(path) => Target::File(Appending::open(path).map_err(|e| failed(path, &e))?),
        };
        Ok(Self { topic, json, target })
    }

    /// Adds a message to the group.
    pub(super) fn write(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let message = (self.topic, delivery.record(), Some(delivery.attempt().0));
        match &mut self.target {
            Target::Stdout(output) => write_message(output.writer(), self.json, message)
                .map_err(|error| Failure::stdout(&error)),
            Target::File(file) => write_message(&mut file.group, self.json, message)
                .map_err(|error| failed(&file.path, &error)),
        }
    }

    /// Makes the group safe: flushed, or synced to disk.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        match &mut self.target {
            Target::Stdout(output) => output.flush(),
            Target::File(file) => file.commit().map_err(|error| failed(&file.path, &error)),
        }
    }
}

impl Appending {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        Ok(Self { file, path: path.to_owned(), len, group: Vec::new() })
    }

    fn commit(&mut self) -> io::Result<()> {
        let appended = self.file.write_all(&self.group).and_then(|()| self.file.sync_data());
        if let Err(error) = appended {
            // Half a group must not stay: all of it will come again. If even this fails, there is
            // nothing better to report than the first failure.
            let _: io::Result<()> = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += self.group.len() as u64;
        self.group.clear();
        Ok(())
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Disk, format_args!("cannot write {}: {error}", path.display()))
}
