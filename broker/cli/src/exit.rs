//! How a command ends: exit codes, stable, and the failures that lead to them.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What an exit code says. Code 2, wrong usage, is clap's and stands here for commands that find
/// it out later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Refused, and it will not happen.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// It may have happened; ask again or look.
    Unknown = 3,
    /// No such topic, subscription or message.
    NotFound = 4,
    /// No server answers.
    NoServer = 69,
    /// A bug in the broker.
    Bug = 70,
    /// A disk failed, the broker's or ours.
    Disk = 74,
}

/// A command that did not do what it was asked to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It ends with this code and text.
    Said {
        /// The exit code.
        code: Code,
        /// For people.
        text: String,
    },
    /// Whoever read our output has gone. Nothing is wrong, and nobody is left to tell.
    Unheard,
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl fmt::Display) -> Self {
        Self::Said { code, text: text.to_string() }
    }

    pub(crate) fn refused(text: impl fmt::Display) -> Self {
        Self::new(Code::Refused, text)
    }

    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::new(Code::Usage, text)
    }

    /// The same, with where it happened in front.
    pub(crate) fn at(self, place: impl fmt::Display) -> Self {
        match self {
            Self::Said { code, text } => Self::new(code, format_args!("{place}: {text}")),
            Self::Unheard => self,
        }
    }

    /// A failed write to standard output.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Unheard;
        }
        Self::new(Code::Disk, format_args!("cannot write to standard output: {error}"))
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Said { code, .. } => ExitCode::from(*code as u8),
            Self::Unheard => ExitCode::SUCCESS,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said { text, .. } => f.write_str(text),
            Self::Unheard => f.write_str("nobody reads the output"),
        }
    }
}
