//! What processes asked the system for, as `strace` has written it down.

/// One call, or a part of one. The order is that of the trace: what has ended before another call
/// began is done before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes are in a file.
    Written { process: u32, path: String, at: usize, bytes: Vec<u8> },
    /// A file has this length now.
    Cut { path: String, len: usize },
    /// Something begins to make a file durable.
    Syncing { process: u32, path: String },
    /// It has.
    Synced { process: u32 },
    /// A name is gone.
    Removed { path: String },
    /// Bytes are about to leave the process, for somewhere without a place in it.
    Leaving { bytes: Vec<u8> },
}

/// The calls that have to be traced.
pub(crate) const CALLS: &str =
    "pwrite64,ftruncate,fsync,fdatasync,unlink,write,writev,sendto,sendmsg";

/// A call that began on one line and ends on another.
#[derive(Debug)]
struct Begun {
    process: u32,
    text: String,
}

/// The events of a trace with `-f -y -xx`.
pub(crate) fn events(trace: &str) -> Vec<Event> {
    let (mut events, mut begun) = (Vec::new(), Vec::<Begun>::new());
    for line in trace.lines() {
        let Some((process, text)) = line.split_once(' ') else { continue };
        let (process, text) = (process.parse().unwrap(), text.trim_start());
        if let Some(text) = text.strip_suffix("<unfinished ...>") {
            begins(process, text, &mut events);
            begun.push(Begun { process, text: text.to_owned() });
        } else if text.starts_with("<... ") {
            let Some(place) = begun.iter().position(|begun| begun.process == process) else {
                continue; // It began before the trace did.
            };
            let first = begun.remove(place).text;
            let (_, rest) = text.split_once(" resumed>").unwrap();
            ends(process, &format!("{first}{rest}"), &mut events);
        } else if text.contains('(') {
            begins(process, text, &mut events);
            ends(process, text, &mut events);
        }
    }
    events
}

fn begins(process: u32, text: &str, events: &mut Vec<Event>) {
    let (call, arguments) = text.split_once('(').unwrap();
    match call {
        "fsync" | "fdatasync" => events.push(Event::Syncing { process, path: path(arguments) }),
        "write" | "writev" | "sendto" | "sendmsg" => {
            events.push(Event::Leaving { bytes: quoted(arguments) });
        }
        _ => {}
    }
}

fn ends(process: u32, text: &str, events: &mut Vec<Event>) {
    let (call, rest) = text.split_once('(').unwrap();
    let (arguments, result) = rest.rsplit_once(" = ").unwrap();
    let arguments = arguments.trim_end().trim_end_matches(')');
    let done: i64 = result.split(' ').next().unwrap().parse().unwrap_or(-1);
    let Ok(done) = usize::try_from(done) else { return };
    let last = || arguments.rsplit(", ").next().unwrap().trim().parse().unwrap();
    match call {
        "pwrite64" => {
            let mut bytes = quoted(arguments);
            assert!(bytes.len() >= done, "the trace has only the beginning of what is written");
            bytes.truncate(done);
            events.push(Event::Written { process, path: path(arguments), at: last(), bytes });
        }
        "ftruncate" => events.push(Event::Cut { path: path(arguments), len: last() }),
        "fsync" | "fdatasync" => events.push(Event::Synced { process }),
        "unlink" => {
            let path = String::from_utf8(quoted(arguments)).unwrap();
            events.push(Event::Removed { path });
        }
        _ => {}
    }
}

/// The path behind the number of an open file.
fn path(arguments: &str) -> String {
    let inside = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map(|(path, _)| String::from_utf8(unhex(path)).unwrap()).unwrap_or_default()
}

/// All bytes in quotes, one behind the other.
fn quoted(arguments: &str) -> Vec<u8> {
    arguments.split('"').skip(1).step_by(2).flat_map(unhex).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

#[test]
fn calls_are_read_whole_and_in_parts() {
    let trace = "7 pwrite64(3<\\x2f\\x61>, \"\\x01\\x02\", 2, 4096) = 2\n\
                 7 fdatasync(3<\\x2f\\x61> <unfinished ...>\n\
                 8 writev(5<\\x73>, [{iov_base=\"\\x6f\", iov_len=1}, {iov_base=\"\\x70\", iov_len=1}], 2) = 2\n\
                 7 <... fdatasync resumed>)          = 0\n\
                 7 fsync(3<\\x2f\\x61>) = -1 EIO (Input/output error)\n\
                 7 --- SIGCHLD {si_signo=SIGCHLD} ---\n";
    let path = || "/a".to_owned();
    let expected = [
        Event::Written { process: 7, path: path(), at: 4096, bytes: vec![1, 2] },
        Event::Syncing { process: 7, path: path() },
        Event::Leaving { bytes: b"op".to_vec() },
        Event::Synced { process: 7 },
        Event::Syncing { process: 7, path: path() },
    ];
    assert_eq!(events(trace), expected);
}
