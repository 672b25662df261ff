//! `posthouse inspect`: what lies in a data directory. Reads, and does nothing else.

use crate::exit::{Code, Failure};
use crate::output::{Output, counted, grouped};
use clap::Args;
use posthouse_broker::config::ByteSize;
use posthouse_storage::fs::real::RealFs;
use posthouse_storage::inspect::{Content, Description, FileDescription, RunContent, inspect};
use posthouse_storage::names::{FileKind, FileName};
use serde::Serialize;
use std::io;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  posthouse inspect posthouse-data
  posthouse inspect /var/lib/posthouse --json

Prints every file with what the manifest makes of it and what is in it, what is stored of
each partition, and all damage. Exits 1 if something is damaged, 4 if there is no store.
Nothing is locked or written. Of a broker that runs, the newest segment can look damaged
where a frame is just being written.";

/// Describe a data directory without changing it: files, frames, partitions, damage
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Inspect {
    /// The broker's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct FileObject<'a> {
    file: &'a str,
    bytes: u64,
    standing: String,
    content: String,
}

#[derive(Serialize)]
struct PartitionObject {
    partition: u32,
    first: u64,
    end: u64,
    batches: u64,
    messages: u64,
    bytes: u64,
    damaged: u64,
}

#[derive(Serialize)]
struct DamageObject<'a> {
    damage: &'a str,
}

impl Inspect {
    pub(crate) fn run(&self, output: &mut Output) -> Result<(), Failure> {
        let directory = self.directory.display();
        let description = RealFs::look(&self.directory).and_then(|fs| inspect(&fs));
        let description = description.map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let code = if missing { Code::NotFound } else { Code::Disk };
            Failure::new(code, format_args!("cannot read {directory}: {error}"))
        })?;
        if description.manifest.is_none() && description.slots_damaged.is_empty() {
            return Err(Failure::new(
                Code::NotFound,
                format_args!("{directory} holds no broker's data: there is no manifest"),
            ));
        }
        for file in &description.files {
            print_file(file, output)?;
        }
        print_partitions(&description, output)?;
        let damage = description.damage();
        for line in &damage {
            output.print(&DamageObject { damage: line }, format_args!("damage: {line}"))?;
        }
        if damage.is_empty() {
            return Ok(());
        }
        output.flush()?;
        Err(Failure::refused(format_args!("{directory} is damaged in {} places", damage.len())))
    }
}

fn print_file(file: &FileDescription, output: &mut Output) -> Result<(), Failure> {
    let object = FileObject {
        file: &file.name,
        bytes: file.bytes,
        standing: file.standing.to_string(),
        content: content_text(&file.content),
    };
    let (bytes, standing) = (ByteSize(file.bytes).to_string(), &object.standing);
    let text = format!("{:24} {bytes:>12}  {standing:9} {}", file.name, object.content);
    output.print(&object, text.trim_end())
}

fn content_text(content: &Content) -> String {
    match content {
        Content::Nothing => String::new(),
        Content::Damaged(why) => format!("damaged: {why}"),
        Content::Checkpoint(found) => {
            format!("state at frame {}, {}", found.index, ByteSize(found.state_bytes))
        }
        Content::Adopted(run) => format!("messages of {}", FileName::new(FileKind::Run, *run)),
        Content::Run(found) => run_text(found),
        Content::Segment(found) if found.frames == 0 => "no frames".to_owned(),
        Content::Segment(found) => format!(
            "frames {} to {} and {}, {}",
            found.first,
            found.last,
            counted(found.marks, "mark"),
            if found.is_finished { "finished" } else { "not finished" },
        ),
    }
}

fn run_text(found: &RunContent) -> String {
    let (first, last) = (found.after.next(), found.through);
    let partitions = counted(found.partitions.len() as u64, "partition");
    let place = found.adopted.map(|id| format!(", in {}", FileName::new(FileKind::Segment, id)));
    format!("messages of frames {first} to {last}, {partitions}{}", place.unwrap_or_default())
}

fn print_partitions(description: &Description, output: &mut Output) -> Result<(), Failure> {
    for (partition, found) in &description.partitions {
        let object = PartitionObject {
            partition: partition.0,
            first: found.first.0,
            end: found.end.0,
            batches: found.batches,
            messages: found.messages,
            bytes: found.bytes,
            damaged: found.damaged,
        };
        let text = format!(
            "partition {partition}: offsets {} to {}, {}, batches: {}, {}, damaged: {}",
            found.first,
            found.end,
            counted(found.messages, "message"),
            grouped(found.batches),
            ByteSize(found.bytes),
            grouped(found.damaged),
        );
        output.print(&object, text)?;
    }
    Ok(())
}
